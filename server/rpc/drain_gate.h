#ifndef THERIA_SERVER_RPC_DRAIN_GATE_H_
#define THERIA_SERVER_RPC_DRAIN_GATE_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/cache/monotonic_clock.h"

// Whether the server still takes new calls, and how many are under way. Every method asks Check
// before it does anything else; calls that passed are finished. The interceptor counts.
// Thread-safe.

namespace theria::server {

class DrainGate {
 public:
  // Errors: UNAVAILABLE once Close was called.
  absl::Status Check() const {
    const std::lock_guard lock(mutex_);
    if (!is_closed_) return absl::OkStatus();
    return absl::UnavailableError("the server drains; retry on another server");
  }

  void Close() {
    const std::lock_guard lock(mutex_);
    is_closed_ = true;
  }

  void Enter() {
    const std::lock_guard lock(mutex_);
    ++calls_;
    ++total_calls_;
  }

  void Leave() {
    const std::lock_guard lock(mutex_);
    if (--calls_ == 0) idle_.notify_all();
  }

  // Calls since the start.
  std::uint64_t total_calls() const {
    const std::lock_guard lock(mutex_);
    return total_calls_;
  }

  // Waits until no call is under way, at most until `deadline` of SteadyNow(). Returns whether none
  // is.
  bool AwaitIdle(absl::Time deadline) {
    std::unique_lock lock(mutex_);
    return idle_.wait_for(lock, TimeUntil(deadline), [this] { return calls_ == 0; });
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::size_t calls_ = 0;  // under way
  std::uint64_t total_calls_ = 0;
  bool is_closed_ = false;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_DRAIN_GATE_H_
