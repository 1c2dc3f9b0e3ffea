#include "kernels/cuda/tuning.h"

#include <fstream>
#include <sstream>

#include "kernels/api/message.h"
#include "kernels/cuda/tuning_tables.h"

namespace theria::cuda {
namespace {

constexpr LengthClass kLengths[] = {LengthClass::kShort, LengthClass::kMedium, LengthClass::kLong};
constexpr std::string_view kCausal = "causal";

std::string Key(std::string_view group, LengthClass length, bool is_causal) {
  return is_causal ? Message(group, ' ', LengthClassName(length), ' ', kCausal)
                   : Message(group, ' ', LengthClassName(length));
}

}  // namespace

LengthClass LengthClassOf(std::int64_t length) {
  if (length <= 64) return LengthClass::kShort;
  return length <= 512 ? LengthClass::kMedium : LengthClass::kLong;
}

std::string_view LengthClassName(LengthClass length) {
  switch (length) {
    case LengthClass::kShort:
      return "short";
    case LengthClass::kMedium:
      return "medium";
    case LengthClass::kLong:
      return "long";
  }
  return "unknown";
}

absl::StatusOr<Tuning> Tuning::Parse(std::string_view text) {
  Tuning tuning;
  std::istringstream lines{std::string(text)};
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string group, name, variant, rest;
    if (!(words >> group)) continue;
    const LengthClass* length = nullptr;
    words >> name >> variant;
    const bool is_causal = variant == kCausal;
    if (is_causal) words >> variant;
    if (words && !(words >> rest)) {
      for (const LengthClass& known : kLengths) {
        if (LengthClassName(known) == name) length = &known;
      }
    }
    if (length == nullptr) {
      return absl::InvalidArgumentError(Message(
          "tuning table, line ", number, ": expected 'group length variant' or 'group ",
          "length causal variant', length one of short, medium and long, not '", line, "'"));
    }
    tuning.Choose(group, *length, is_causal, variant);
  }
  return tuning;
}

absl::StatusOr<Tuning> Tuning::Read(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(Message("cannot read the tuning table ", path));
  }
  return Parse(text.str());
}

Tuning Tuning::Default(std::string_view gpu) {
  for (const TuningTable& table : kTuningTables) {
    if (gpu != table.gpu) continue;
    absl::StatusOr<Tuning> tuning = Parse(table.text);
    if (tuning.ok()) return *std::move(tuning);
  }
  return Tuning();
}

std::string_view Tuning::Choice(std::string_view group, LengthClass length, bool is_causal) const {
  auto found = choices_.find(Key(group, length, is_causal));
  if (found == choices_.end() && is_causal) found = choices_.find(Key(group, length, false));
  return found == choices_.end() ? std::string_view() : found->second;
}

void Tuning::Choose(std::string_view group, LengthClass length, bool is_causal,
                    std::string_view variant) {
  choices_[Key(group, length, is_causal)] = variant;
}

std::string Tuning::ToString() const {
  std::string text;
  for (const auto& [key, variant] : choices_) {
    text += Message(key, ' ', variant, '\n');
  }
  return text;
}

}  // namespace theria::cuda
