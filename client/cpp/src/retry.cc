#include "client/cpp/src/retry.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace theria::client {

Retrier::Retrier(const RetryPolicy& policy, RetryClock clock)
    : policy_(policy), clock_(std::move(clock)) {}

absl::Status Retrier::Run(absl::Time deadline, absl::FunctionRef<absl::Status()> attempt) {
  for (int attempts = 1;; ++attempts) {
    absl::Status status = attempt();
    if (!absl::IsUnavailable(status) || attempts >= policy_.max_attempts) return status;
    const absl::Duration wait = Backoff(attempts);
    if (clock_.now() + wait >= deadline) return status;
    clock_.sleep(wait);
  }
}

absl::Duration Retrier::Backoff(int attempt) {
  const absl::Duration full = std::min(
      policy_.max_backoff, policy_.initial_backoff * std::pow(policy_.multiplier, attempt - 1));
  absl::MutexLock lock(&mutex_);
  return full * (1.0 - absl::Uniform(random_, 0.0, 1.0) * policy_.jitter);
}

}  // namespace theria::client
