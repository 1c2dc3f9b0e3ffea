#include "server/rpc/transfer_watch.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "server/cache/monotonic_clock.h"

namespace theria::server {
std::shared_ptr<TransferWatch> TransferWatch::Start(const Limits& limits,
                                                    std::function<void()> on_stall) {
  std::shared_ptr<TransferWatch> watch(new TransferWatch(limits, std::move(on_stall)));
  const std::lock_guard lock(watch->mutex_);
  watch->Arm(limits.stall_timeout);
  return watch;
}

TransferWatch::TransferWatch(const Limits& limits, std::function<void()> on_stall)
    : limits_(limits),
      started_at_(MonotonicNow()),
      progress_nanoseconds_(absl::ToInt64Nanoseconds(started_at_)),
      on_stall_(std::move(on_stall)) {}

void TransferWatch::Progress(std::size_t size_bytes) {
  transferred_bytes_.fetch_add(size_bytes, std::memory_order_relaxed);
  progress_nanoseconds_.store(absl::ToInt64Nanoseconds(MonotonicNow()), std::memory_order_relaxed);
}

void TransferWatch::Stop() {
  std::function<void()> on_stall;  // may own the caller: destroyed without the lock
  const std::lock_guard lock(mutex_);
  on_stall.swap(on_stall_);
  alarm_.reset();
}

void TransferWatch::Arm(absl::Duration delay) {
  // A new alarm each time: the one that rang is still running its callback.
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(delay) +
                  std::chrono::milliseconds(1),
              [watch = shared_from_this()](bool rang) {
                if (rang) watch->OnAlarm();
              });
}

void TransferWatch::OnAlarm() {
  std::function<void()> on_stall;
  {
    const std::lock_guard lock(mutex_);
    if (!on_stall_) return;
    const absl::Duration left = TimeLeft();
    if (left > absl::ZeroDuration()) return Arm(left);
    on_stall.swap(on_stall_);
  }
  on_stall();
}

absl::Duration TransferWatch::TimeLeft() const {
  const absl::Duration now = MonotonicNow();
  const absl::Duration idle =
      now - absl::Nanoseconds(progress_nanoseconds_.load(std::memory_order_relaxed));
  const absl::Duration allowed =
      limits_.stall_timeout + absl::Seconds(static_cast<double>(transferred_bytes()) /
                                            static_cast<double>(limits_.min_bytes_per_second));
  return std::min(limits_.stall_timeout - idle, allowed - (now - started_at_));
}

}  // namespace theria::server
