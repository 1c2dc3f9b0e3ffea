#ifndef THERIA_SERVER_ENGINE_ACCOUNT_H_
#define THERIA_SERVER_ENGINE_ACCOUNT_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/cache/tensor_store.h"

// Who calls, and how much of the server he may use. One Account for each tenant, made when the
// tenant is first known and kept as long as the server: its limits may change meanwhile, what it
// has used does not. Thread-safe.

namespace theria::server {

struct AccountLimits {
  std::size_t quota_bytes = 0;          // of the store, spilled or not; 0: its own default
  std::size_t max_queued_requests = 0;  // accepted and not yet answered; 0: the executor's limit
  std::size_t max_queued_bytes = 0;     // of their inputs and outputs; 0: the executor's limit
  double requests_per_second = 0.0;     // in the long run; 0: as many as come
  double burst_requests = 1.0;          // at once, after a pause; at least 1
  double weight = 1.0;                  // of its share where tenants compete; above 0

  friend bool operator==(const AccountLimits&, const AccountLimits&) = default;
};

// Why an account's call was refused; the label of the metric.
enum class Refusal : std::uint8_t { kRate, kQueue, kServerFull };
inline constexpr std::size_t kRefusals = 3;
std::string_view RefusalName(Refusal refusal);  // "rate", "queue", "server_full"

class Account {
 public:
  using Clock = std::function<absl::Duration()>;  // monotonic; a test injects its own

  explicit Account(TenantId tenant = {}, const AccountLimits& limits = {}, Clock clock = {});
  Account(const Account&) = delete;
  Account& operator=(const Account&) = delete;

  const TenantId& tenant() const { return tenant_; }
  AccountLimits limits() const;
  void SetLimits(const AccountLimits& limits);

  // Counts one request against the rate: a bucket of `burst_requests` tokens that fills by
  // `requests_per_second`. Errors: RESOURCE_EXHAUSTED with RetryAfterOf, the time to the next
  // token.
  absl::Status TakeRequest();

  void CountRefusal(Refusal refusal) {
    refusals_[static_cast<std::size_t>(refusal)].fetch_add(1, std::memory_order_relaxed);
  }
  std::uint64_t requests() const { return requests_.load(std::memory_order_relaxed); }
  std::uint64_t refusals(Refusal refusal) const {
    return refusals_[static_cast<std::size_t>(refusal)].load(std::memory_order_relaxed);
  }

 private:
  void Fill(absl::Duration now);

  const TenantId tenant_;
  const Clock clock_;
  mutable std::mutex mutex_;
  AccountLimits limits_;
  double tokens_;
  absl::Duration filled_at_;
  std::atomic<std::uint64_t> requests_{0};
  std::array<std::atomic<std::uint64_t>, kRefusals> refusals_{};
};

}  // namespace theria::server

#endif  // THERIA_SERVER_ENGINE_ACCOUNT_H_
