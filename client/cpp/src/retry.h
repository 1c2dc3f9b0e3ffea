#ifndef THERIA_CLIENT_CPP_SRC_RETRY_H_
#define THERIA_CLIENT_CPP_SRC_RETRY_H_

#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "theria/client.h"

namespace theria::client {

// Time as a Retrier sees it; a test puts its own in.
struct RetryClock {
  std::function<absl::Time()> now = [] { return absl::Now(); };
  std::function<void(absl::Duration)> sleep = [](absl::Duration wait) { absl::SleepFor(wait); };
};

// The outcome of one attempt. A final failure is not repeated.
struct Attempt {
  Attempt(absl::Status status, bool is_final = false)  // NOLINT: most attempts are a status alone
      : status(std::move(status)), is_final(is_final) {}

  absl::Status status;
  bool is_final;
};

// Repeats what fails with UNAVAILABLE, or is refused for a while, as a RetryPolicy says.
// Thread-safe.
class Retrier {
 public:
  explicit Retrier(const RetryPolicy& policy, RetryClock clock = {});

  // The status of the last attempt. There is at least one; a wait that would end after `deadline`
  // is not begun.
  absl::Status Run(absl::Time deadline, absl::FunctionRef<Attempt()> attempt);

 private:
  absl::Duration Backoff(int attempt);

  const RetryPolicy policy_;
  const RetryClock clock_;
  absl::Mutex mutex_;
  absl::BitGen random_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_RETRY_H_
