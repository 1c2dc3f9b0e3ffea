#include "server/telemetry/log.h"

#include <algorithm>
#include <iterator>
#include <memory>

#include "absl/strings/ascii.h"
#include "server/telemetry/log_sink.h"
#include "spdlog/fmt/fmt.h"
#include "spdlog/spdlog.h"

namespace theria::server {
namespace {

LogFormat active_format = LogFormat::kLogfmt;

bool IsPlain(std::string_view value) {
  return !value.empty() && std::all_of(value.begin(), value.end(), [](unsigned char c) {
    return absl::ascii_isgraph(c) && c != '"' && c != '=' && c != '\\';
  });
}

void AppendQuoted(std::string_view value, std::string& text) {
  constexpr char kHex[] = "0123456789abcdef";
  text += '"';
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (byte < 0x20 || byte >= 0x7f) {
      // Bytes beyond ASCII one by one: a line is valid whatever a client sent.
      text += "\\u00";
      text += kHex[byte >> 4];
      text += kHex[byte & 15];
    } else {
      text += c;
    }
  }
  text += '"';
}

void AppendValue(LogFormat format, std::string_view value, std::string& text) {
  if (format == LogFormat::kLogfmt && IsPlain(value)) {
    text += value;
  } else {
    AppendQuoted(value, text);
  }
}

}  // namespace

void SetUpLog(spdlog::level::level_enum level, LogFormat format) {
  active_format = format;
  auto logger = std::make_shared<spdlog::logger>("theria", StderrSink());
  logger->set_level(level);
  logger->set_pattern(format == LogFormat::kJson
                          ? R"({"time":"%Y-%m-%dT%H:%M:%S.%fZ","level":"%l",%v})"
                          : "time=%Y-%m-%dT%H:%M:%S.%fZ level=%l %v",
                      spdlog::pattern_time_type::utc);
  spdlog::set_default_logger(std::move(logger));
}

LogLine::LogLine(spdlog::level::level_enum level, std::string_view event)
    : level_(level), is_enabled_(spdlog::default_logger_raw()->should_log(level)) {
  if (!is_enabled_) return;
  text_.reserve(320);
  Add("event", event);
}

LogLine::~LogLine() {
  if (is_enabled_) spdlog::default_logger_raw()->log(level_, text_);
}

LogLine& LogLine::Add(std::string_view key, std::string_view value) {
  if (!is_enabled_) return *this;
  AddKey(key);
  AppendValue(active_format, value, text_);
  return *this;
}

LogLine& LogLine::Add(std::string_view key, double value) {
  if (!is_enabled_) return *this;
  AddKey(key);
  fmt::format_to(std::back_inserter(text_), "{:.6g}", value);
  return *this;
}

LogLine& LogLine::Add(std::string_view key, std::uint64_t value) {
  if (!is_enabled_) return *this;
  AddKey(key);
  fmt::format_to(std::back_inserter(text_), "{}", value);
  return *this;
}

void LogLine::AddKey(std::string_view key) {
  if (active_format == LogFormat::kJson) {
    text_.append(text_.empty() ? "\"" : ",\"").append(key).append("\":");
  } else {
    text_.append(text_.empty() ? "" : " ").append(key).append("=");
  }
}

std::string LogValue(LogFormat format, std::string_view value) {
  std::string text;
  AppendValue(format, value, text);
  return text;
}

}  // namespace theria::server
