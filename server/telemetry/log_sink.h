#ifndef THERIA_SERVER_TELEMETRY_LOG_SINK_H_
#define THERIA_SERVER_TELEMETRY_LOG_SINK_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "server/telemetry/metric_registry.h"
#include "spdlog/sinks/base_sink.h"

// Where log lines go: to a descriptor that may be a full pipe. No caller waits for its reader.

namespace theria::server {

// Writes what the descriptor takes at once and keeps the rest, at most kMaxBacklogBytes, for the
// next line or flush. Lines beyond that are dropped and counted, and so are those of a descriptor
// that fails.
class LogSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  static constexpr std::size_t kMaxBacklogBytes = std::size_t{1} << 20;

  // `descriptor` stays the caller's.
  explicit LogSink(int descriptor);

  std::uint64_t dropped_lines() const { return dropped_lines_.load(std::memory_order_relaxed); }

  // Waits at most `patience` for the reader to take the backlog.
  void Drain(absl::Duration patience);

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override;
  void flush_() override { WriteBacklog(); }

 private:
  void WriteBacklog();
  // As write(2); with EAGAIN where that would wait.
  std::ptrdiff_t WriteSome(std::string_view text) const;

  const int descriptor_;
  const bool is_socket_;
  std::atomic<std::uint64_t> dropped_lines_{0};
  // Guarded by the base's mutex.
  std::string backlog_;
  std::size_t written_bytes_ = 0;  // at its start
};

// The sink of standard error, which lives as long as the process.
const std::shared_ptr<LogSink>& StderrSink();

// theria_log_lines_dropped_total.
void AddLogMetrics(MetricRegistry& registry);

}  // namespace theria::server

#endif  // THERIA_SERVER_TELEMETRY_LOG_SINK_H_
