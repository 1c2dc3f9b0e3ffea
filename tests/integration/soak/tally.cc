#include "tests/integration/soak/tally.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"

namespace theria::soak {
namespace {

constexpr std::array<std::string_view, 17> kCodeLabels = {
    "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated"};

// How the server may end a call that its client breaks off.
constexpr std::array kBreakingCodes = {absl::StatusCode::kOk, absl::StatusCode::kCancelled,
                                       absl::StatusCode::kDeadlineExceeded,
                                       absl::StatusCode::kResourceExhausted};

using Labels = std::map<std::string, std::string>;

Labels LabelsOf(const Method& method) {
  return {{"grpc_service", std::string(method.service)}, {"grpc_method", std::string(method.name)}};
}

std::uint64_t Handled(const Metrics& metrics, const Method& method, absl::StatusCode code) {
  Labels labels = LabelsOf(method);
  labels["grpc_code"] = CodeLabel(code);
  return static_cast<std::uint64_t>(std::llround(metrics.Sum("grpc_server_handled_total", labels)));
}

std::uint64_t AnsweredWith(const MethodTally& tally, absl::StatusCode code) {
  const auto found = tally.answered.find(code);
  return found == tally.answered.end() ? 0 : found->second;
}

class Auditor {
 public:
  Auditor(const Tally& tally, const Metrics& metrics) : tally_(tally), metrics_(metrics) {}

  std::vector<std::string> Run() {
    for (const auto& [method, calls] : tally_.methods()) {
      CheckCodes(method, calls);
      CheckTotals(method);
    }
    CheckNothingElse();
    for (const Method& method : {kForward, kVjp, kJvp, kHvp}) CheckCompute(method);
    return std::move(findings_);
  }

 private:
  template <typename... Parts>
  void Find(const Method& method, const Parts&... parts) {
    findings_.push_back(absl::StrCat(std::string(method.name), ": ", parts...));
  }

  void CheckCodes(const Method& method, const MethodTally& calls) {
    const bool may_break = calls.broken_off_there + calls.broken_off_perhaps > 0;
    std::uint64_t handled_breaking = 0, answered_breaking = 0;
    for (std::size_t number = 0; number < kCodeLabels.size(); ++number) {
      const auto code = static_cast<absl::StatusCode>(number);
      const std::uint64_t handled = Handled(metrics_, method, code);
      const std::uint64_t answered = AnsweredWith(calls, code);
      const bool is_breaking =
          std::find(kBreakingCodes.begin(), kBreakingCodes.end(), code) != kBreakingCodes.end();
      if (may_break && is_breaking) {
        handled_breaking += handled;
        answered_breaking += answered;
        if (handled < answered) {
          Find(method, CodeLabel(code), " counted ", handled, ", at least ", answered, " came");
        }
      } else if (handled != answered) {
        Find(method, CodeLabel(code), " counted ", handled, ", ", answered, " came");
      }
    }
    const std::uint64_t least = answered_breaking + calls.broken_off_there;
    const std::uint64_t most = least + calls.broken_off_perhaps;
    if (may_break && (handled_breaking < least || handled_breaking > most)) {
      Find(method, "ended or broken off ", handled_breaking, ", must be ", least, " to ", most);
    }
  }

  void CheckTotals(const Method& method) {
    const Labels labels = LabelsOf(method);
    const double started = metrics_.Sum("grpc_server_started_total", labels);
    const double handled = metrics_.Sum("grpc_server_handled_total", labels);
    const double timed = metrics_.Sum("grpc_server_handling_seconds_count", labels);
    if (started != handled || timed != handled) {
      Find(method, "started ", started, ", handled ", handled, ", timed ", timed);
    }
  }

  void CheckNothingElse() {
    for (const Sample& sample : metrics_.samples()) {
      if (sample.name != "grpc_server_started_total" || sample.value == 0.0) continue;
      const bool is_known =
          std::any_of(tally_.methods().begin(), tally_.methods().end(),
                      [&](const auto& entry) { return LabelsOf(entry.first) == sample.labels; });
      if (!is_known) {
        findings_.push_back(absl::StrCat(
            "a method that was not called: ", sample.labels.at("grpc_method"), ", ", sample.value));
      }
    }
  }

  void CheckCompute(const Method& method) {
    const auto found = tally_.methods().find(method);
    if (found == tally_.methods().end()) return;
    std::string operation(method.name);
    operation.front() = static_cast<char>(std::tolower(operation.front()));
    const double computed = metrics_.Sum("theria_compute_seconds_count", {{"op", operation}});
    const auto ok = static_cast<double>(Handled(metrics_, method, absl::StatusCode::kOk));
    const bool may_break = found->second.broken_off_there + found->second.broken_off_perhaps > 0;
    if (computed < ok || (computed > ok && !may_break)) {
      Find(method, "computed ", computed, " times, answered OK ", ok);
    }
  }

  const Tally& tally_;
  const Metrics& metrics_;
  std::vector<std::string> findings_;
};

}  // namespace

std::uint64_t MethodTally::calls() const {
  std::uint64_t sum = broken_off_there + broken_off_perhaps;
  for (const auto& [code, count] : answered) sum += count;
  return sum;
}

void Tally::Add(const Tally& other) {
  for (const auto& [method, calls] : other.methods_) {
    MethodTally& sum = methods_[method];
    for (const auto& [code, count] : calls.answered) sum.answered[code] += count;
    sum.broken_off_there += calls.broken_off_there;
    sum.broken_off_perhaps += calls.broken_off_perhaps;
  }
}

std::uint64_t Tally::calls() const {
  std::uint64_t sum = 0;
  for (const auto& [method, calls] : methods_) sum += calls.calls();
  return sum;
}

std::uint64_t Tally::answered(absl::StatusCode code) const {
  std::uint64_t sum = 0;
  for (const auto& [method, calls] : methods_) sum += AnsweredWith(calls, code);
  return sum;
}

std::string CodeLabel(absl::StatusCode code) {
  return std::string(kCodeLabels.at(static_cast<std::size_t>(code)));
}

bool AllEnded(const Metrics& metrics) {
  return metrics.Sum("grpc_server_started_total") == metrics.Sum("grpc_server_handled_total");
}

bool IsQuiet(const Metrics& metrics) {
  return AllEnded(metrics) &&
         std::all_of(std::begin(kIdleGauges), std::end(kIdleGauges),
                     [&](const char* name) { return metrics.Sum(name) == 0.0; });
}

std::vector<std::string> Audit(const Tally& tally, const Metrics& metrics) {
  return Auditor(tally, metrics).Run();
}

}  // namespace theria::soak
