#ifndef THERIA_TESTS_UNIT_SERVER_EVENT_H_
#define THERIA_TESTS_UNIT_SERVER_EVENT_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

// Something that happens once and that threads wait for. On the standard library's primitives,
// which ThreadSanitizer sees through, unlike those of a library built without it.

namespace theria::server {

class Event {
 public:
  // Again is allowed.
  void Notify() {
    const std::lock_guard lock(mutex_);
    happened_ = true;
    changed_.notify_all();
  }

  bool HasHappened() const {
    const std::lock_guard lock(mutex_);
    return happened_;
  }

  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return happened_; });
  }

  // Whether it happened within `time`. In short waits by the wall clock, the one that
  // ThreadSanitizer knows, so that setting it ends no long one early.
  bool WaitFor(std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    std::unique_lock lock(mutex_);
    do {
      changed_.wait_until(lock, std::chrono::system_clock::now() + std::chrono::milliseconds(1),
                          [this] { return happened_; });
    } while (!happened_ && std::chrono::steady_clock::now() < end);
    return happened_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool happened_ = false;
};

}  // namespace theria::server

#endif  // THERIA_TESTS_UNIT_SERVER_EVENT_H_
