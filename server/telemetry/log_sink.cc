#include "server/telemetry/log_sink.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <vector>

#include "absl/time/clock.h"

namespace theria::server {
namespace {

constexpr absl::Duration kDrainInterval = absl::Milliseconds(10);

bool IsSocket(int descriptor) {
  struct stat status {};
  return fstat(descriptor, &status) == 0 && S_ISSOCK(status.st_mode);
}

}  // namespace

LogSink::LogSink(int descriptor) : descriptor_(descriptor), is_socket_(IsSocket(descriptor)) {}

void LogSink::Drain(absl::Duration patience) {
  for (; patience > absl::ZeroDuration(); patience -= kDrainInterval) {
    {
      const std::lock_guard lock(mutex_);
      WriteBacklog();
      if (backlog_.empty()) return;
    }
    absl::SleepFor(kDrainInterval);
  }
}

void LogSink::sink_it_(const spdlog::details::log_msg& message) {
  spdlog::memory_buf_t line;
  formatter_->format(message, line);
  if (backlog_.size() - written_bytes_ + line.size() > kMaxBacklogBytes) {
    WriteBacklog();
    if (backlog_.size() - written_bytes_ + line.size() > kMaxBacklogBytes) {
      dropped_lines_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
  }
  backlog_.append(line.data(), line.size());
  WriteBacklog();
}

void LogSink::WriteBacklog() {
  while (written_bytes_ < backlog_.size()) {
    const std::ptrdiff_t count = WriteSome(std::string_view(backlog_).substr(written_bytes_));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count < 0) {  // nobody will read it: the pipe is broken, or the disk is full
      const auto first = backlog_.begin() + static_cast<std::ptrdiff_t>(written_bytes_);
      dropped_lines_.fetch_add(static_cast<std::uint64_t>(std::count(first, backlog_.end(), '\n')),
                               std::memory_order_relaxed);
      break;
    }
    written_bytes_ += static_cast<std::size_t>(count);
  }
  const bool is_stuck = written_bytes_ < backlog_.size() && errno == EAGAIN;
  if (!is_stuck) {
    backlog_.clear();
    written_bytes_ = 0;
  } else if (written_bytes_ > kMaxBacklogBytes / 2) {
    backlog_.erase(0, written_bytes_);
    written_bytes_ = 0;
  }
}

std::ptrdiff_t LogSink::WriteSome(std::string_view text) const {
  if (is_socket_) {
    return send(descriptor_, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  // Not by O_NONBLOCK, which other processes that share the descriptor would get as well. A pipe
  // that poll(2) calls writable takes PIPE_BUF bytes at once.
  pollfd writable = {descriptor_, POLLOUT, 0};
  if (poll(&writable, 1, 0) == 0) {
    errno = EAGAIN;
    return -1;
  }
  return write(descriptor_, text.data(), std::min<std::size_t>(text.size(), PIPE_BUF));
}

const std::shared_ptr<LogSink>& StderrSink() {
  // Never destroyed: gRPC's threads may log to the process's end.
  static const auto& sink = *new std::shared_ptr<LogSink>(new LogSink(STDERR_FILENO));
  return sink;
}

void AddLogMetrics(MetricRegistry& registry) {
  registry.AddSource([]() -> std::vector<MetricSample> {
    return {{"theria_log_lines_dropped_total",
             "Log lines that nobody read in time.",
             MetricSample::Kind::kCounter,
             {},
             static_cast<double>(StderrSink()->dropped_lines())}};
  });
}

}  // namespace theria::server
