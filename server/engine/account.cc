#include "server/engine/account.h"

#include <algorithm>
#include <utility>

#include "server/cache/monotonic_clock.h"
#include "server/engine/retry_after.h"

namespace theria::server {
std::string_view RefusalName(Refusal refusal) {
  switch (refusal) {
    case Refusal::kRate:
      return "rate";
    case Refusal::kQueue:
      return "queue";
    case Refusal::kServerFull:
      return "server_full";
  }
  return "unknown";
}

Account::Account(TenantId tenant, const AccountLimits& limits, Clock clock)
    : tenant_(std::move(tenant)),
      clock_(clock ? std::move(clock) : MonotonicNow),
      limits_(limits),
      tokens_(limits.burst_requests),
      filled_at_(clock_()) {}

AccountLimits Account::limits() const {
  const std::lock_guard lock(mutex_);
  return limits_;
}

void Account::SetLimits(const AccountLimits& limits) {
  const std::lock_guard lock(mutex_);
  Fill(clock_());  // what has passed so far counts at the old rate
  limits_ = limits;
  tokens_ = std::min(tokens_, limits.burst_requests);
}

absl::Status Account::TakeRequest() {
  requests_.fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard lock(mutex_);
  if (limits_.requests_per_second <= 0) return absl::OkStatus();
  Fill(clock_());
  if (tokens_ >= 1) {
    tokens_ -= 1;
    return absl::OkStatus();
  }
  CountRefusal(Refusal::kRate);
  return ExhaustedRetryAfter("the tenant's requests come faster than its rate allows",
                             absl::Seconds((1 - tokens_) / limits_.requests_per_second));
}

void Account::Fill(absl::Duration now) {
  const double seconds = std::max(absl::ToDoubleSeconds(now - filled_at_), 0.0);
  tokens_ = std::min(tokens_ + seconds * limits_.requests_per_second, limits_.burst_requests);
  filled_at_ = now;
}

}  // namespace theria::server
