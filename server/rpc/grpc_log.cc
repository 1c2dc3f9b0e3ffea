#include "server/rpc/grpc_log.h"

#include <atomic>
#include <cstdint>
#include <string_view>

#include "grpc/support/log.h"
#include "server/telemetry/log.h"

namespace theria::server {
namespace {

constexpr std::string_view kAcceptFailed = "Failed accept4";

std::atomic<bool> has_listener_failed{false};

spdlog::level::level_enum LevelOf(gpr_log_severity severity) {
  switch (severity) {
    case GPR_LOG_SEVERITY_ERROR:
      return spdlog::level::warn;
    case GPR_LOG_SEVERITY_INFO:
      return spdlog::level::info;
    case GPR_LOG_SEVERITY_DEBUG:
      return spdlog::level::debug;
  }
  return spdlog::level::warn;
}

void Log(gpr_log_func_args* line) {
  const std::string_view message = line->message;
  if (message.starts_with(kAcceptFailed)) has_listener_failed = true;
  const std::string_view file = line->file;
  LogLine(LevelOf(line->severity), "grpc")
      .Add("message", message)
      .Add("file", file.substr(file.rfind('/') + 1))
      .Add("line", static_cast<std::uint64_t>(line->line));
}

}  // namespace

void RedirectGrpcLog() {
  gpr_set_log_function(Log);
  gpr_log_verbosity_init();
  // Also under GRPC_VERBOSITY=NONE: HasListenerFailed needs to see them.
  if (gpr_should_log(GPR_LOG_SEVERITY_ERROR) == 0) gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
}

bool HasListenerFailed() { return has_listener_failed; }

}  // namespace theria::server
