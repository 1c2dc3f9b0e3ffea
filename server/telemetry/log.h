#ifndef THERIA_SERVER_TELEMETRY_LOG_H_
#define THERIA_SERVER_TELEMETRY_LOG_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "spdlog/common.h"

// Structured logs on standard error, one line for each event: logfmt (`event=rpc code=OK ...`) or
// JSON. SetUpLog is called once, before any thread logs; the rest is thread-safe.

namespace theria::server {

enum class LogFormat : std::uint8_t { kLogfmt, kJson };

void SetUpLog(spdlog::level::level_enum level, LogFormat format);

// Builds one line and writes it when destroyed. Keys are plain identifiers; values may hold
// anything a client sent and are quoted and escaped as needed.
//
//   LogLine(spdlog::level::info, "listening").Add("address", address);
class LogLine {
 public:
  LogLine(spdlog::level::level_enum level, std::string_view event);
  ~LogLine();
  LogLine(const LogLine&) = delete;
  LogLine& operator=(const LogLine&) = delete;

  LogLine& Add(std::string_view key, std::string_view value);
  LogLine& Add(std::string_view key, const char* value) {
    return Add(key, std::string_view(value));
  }
  LogLine& Add(std::string_view key, double value);
  LogLine& Add(std::string_view key, std::uint64_t value);

 private:
  void AddKey(std::string_view key);

  const spdlog::level::level_enum level_;
  const bool is_enabled_;
  std::string text_;
};

// `value` as it stands in a line of `format`: logfmt leaves plain words unquoted.
std::string LogValue(LogFormat format, std::string_view value);

}  // namespace theria::server

#endif  // THERIA_SERVER_TELEMETRY_LOG_H_
