#include "client/cpp/src/retry.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "theria/error_details.h"

namespace theria::client {

Retrier::Retrier(const RetryPolicy& policy, RetryClock clock)
    : policy_(policy), clock_(std::move(clock)) {}

absl::Status Retrier::Run(absl::Time deadline, absl::FunctionRef<Attempt()> attempt) {
  for (int failures = 0, refusals = 0;;) {
    auto [status, is_final] = attempt();
    if (is_final) return status;
    absl::Duration wait;
    if (absl::IsUnavailable(status)) {
      if (++failures >= policy_.max_attempts) return status;
      wait = Backoff(failures);
    } else if (absl::IsResourceExhausted(status)) {
      const std::optional<absl::Duration> delay = DetailsOf(status).retry_delay;
      if (!delay.has_value() || ++refusals > policy_.max_refusals) return status;
      wait = *delay;
    } else {
      return status;
    }
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
