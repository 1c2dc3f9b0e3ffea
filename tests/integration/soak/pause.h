#ifndef THERIA_TESTS_INTEGRATION_SOAK_PAUSE_H_
#define THERIA_TESTS_INTEGRATION_SOAK_PAUSE_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace theria::soak {

// Where the soak's clients stop between two calls, so that what the server holds can be seen while
// none is under way. Thread-safe.
class Pause {
 public:
  // By each client: takes part until Leave, and waits in Pass while there is a pause; whether there
  // is one to wait for.
  void Join() {
    absl::MutexLock lock(&mutex_);
    ++clients_;
  }
  void Leave() {
    absl::MutexLock lock(&mutex_);
    --clients_;
  }
  bool is_on() const {
    absl::MutexLock lock(&mutex_);
    return is_on_;
  }
  void Pass() {
    absl::MutexLock lock(&mutex_);
    ++waiting_;
    mutex_.Await(absl::Condition(this, &Pause::IsOver));
    --waiting_;
  }

  // Begins a pause; returns when every client waits.
  void Begin() {
    absl::MutexLock lock(&mutex_);
    is_on_ = true;
    mutex_.Await(absl::Condition(this, &Pause::AllWait));
  }
  void End() {
    absl::MutexLock lock(&mutex_);
    is_on_ = false;
  }

 private:
  bool IsOver() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !is_on_; }
  bool AllWait() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return waiting_ == clients_; }

  mutable absl::Mutex mutex_;
  int clients_ ABSL_GUARDED_BY(mutex_) = 0;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  bool is_on_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace theria::soak

#endif  // THERIA_TESTS_INTEGRATION_SOAK_PAUSE_H_
