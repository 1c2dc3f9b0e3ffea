#ifndef THERIA_SERVER_CACHE_TENSOR_STORE_H_
#define THERIA_SERVER_CACHE_TENSOR_STORE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/api/dtype.h"
#include "kernels/api/memory.h"
#include "server/cache/sha256.h"

// The tensor store: immutable tensors resident in one Memory, behind opaque, unguessable handles.
//
// A tensor is made in two phases: Create gives a PendingTensor that its one writer fills, Commit
// makes it readable; a PendingTensor destroyed before that leaves nothing. A TensorLease keeps a
// tensor's bytes alive and in place while somebody reads them, whatever happens to its entry. An
// entry goes away when its time to live ends, when it is deleted, or by least-recently-used
// eviction above the high watermark; pinned entries and entries with readers are never evicted, and
// a pin, which outlasts the time to live, ends by itself. Acquire, Renew and the end of a read or a
// pin are uses. Each tenant has a byte quota, sees its own tensors only, and makes room for its new
// tensors at the cost of its own old ones only.
//
// A store on a device may have a second, host-accessible memory to spill to: what eviction would
// drop moves there as long as it has room, and back when somebody acquires it. Copies run on the
// thread that needs the room or the tensor, without keeping others from the store.
//
// Every byte counts from Create to the release of its last lease, and stats() adds up exactly.
// Thread-safe. The memories and the clock must outlive the store, the store must outlive every
// PendingTensor and TensorLease.

namespace theria::server {

// Who owns a tensor. The default tenant is the empty name.
struct TenantId {
  std::string name;
  friend bool operator==(const TenantId&, const TenantId&) = default;
  friend auto operator<=>(const TenantId&, const TenantId&) = default;
};

// What a tensor is; row-major. No extents: a single element.
struct TensorSpec {
  DType dtype = DType::kFloat32;
  std::vector<std::int64_t> shape;

  // REQUIRES: extents at least 1 whose product does not overflow; Create checks that.
  std::size_t SizeBytes() const;
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

struct TensorInfo {
  std::string handle;
  TensorSpec spec;
  absl::Duration expires_in;
  absl::Duration pinned_for;  // zero: not pinned
  std::optional<Sha256Digest> sha256;
  std::string device;  // Memory::name() of where it is now
  int readers = 0;
};

// Why a tensor left the store; the label of the metric. kWatermark: to make room, for its tenant's
// quota too, where spilling could not.
enum class EvictionReason : std::uint8_t { kExpired, kWatermark, kDeleted };
std::string_view EvictionReasonName(EvictionReason reason);  // "expired", "watermark", "deleted"

struct TensorStoreStats {
  std::size_t capacity_bytes = 0;
  std::size_t used_bytes = 0;  // in the Memory: committed, pending, and deleted but being read
  std::size_t pending_bytes = 0;
  std::size_t pinned_bytes = 0;  // of readable tensors
  std::size_t entries = 0;       // readable tensors, spilled ones too
  std::size_t spill_capacity_bytes = 0;
  std::size_t spilled_bytes = 0;  // in the spill memory, or on the way there
  std::uint64_t spills = 0;       // moves to the spill memory, and their bytes
  std::uint64_t spill_traffic_bytes = 0;
  std::uint64_t restores = 0;  // moves back
  std::uint64_t restore_traffic_bytes = 0;
  std::uint64_t hits = 0;                    // Acquire that found its tensor
  std::uint64_t misses = 0;                  // Acquire that did not
  std::array<std::uint64_t, 3> evictions{};  // by EvictionReason
};

class TensorStore;
namespace internal {
struct Entry;
}

// Shared read access to one tensor. Movable; released on destruction.
class TensorLease {
 public:
  TensorLease() = default;
  TensorLease(TensorLease&&) noexcept;
  TensorLease& operator=(TensorLease&&) noexcept;
  ~TensorLease();

  const TensorSpec& spec() const;
  const void* data() const;  // in the store's Memory
  TensorInfo info() const;   // of this moment; times are zero once the entry is gone

 private:
  friend class TensorStore;
  TensorLease(TensorStore* store, std::shared_ptr<internal::Entry> entry);
  void Swap(TensorLease& other) noexcept;
  TensorStore* store_ = nullptr;
  std::shared_ptr<internal::Entry> entry_;
};

// A tensor being written by its one owner. Movable; aborts on destruction unless committed.
class PendingTensor {
 public:
  PendingTensor() = default;
  PendingTensor(PendingTensor&&) noexcept;
  PendingTensor& operator=(PendingTensor&&) noexcept;
  ~PendingTensor();

  const TensorSpec& spec() const;
  void* data() const;  // spec().SizeBytes() bytes in the store's Memory, uninitialised

  // Makes the tensor readable. `sha256`, if given, is the digest of its bytes, by which
  // FindContent finds it. If the tenant already has a tensor of that content, that one is renewed
  // and returned, as FindContent does, and this one is dropped.
  // REQUIRES: not moved from, not committed.
  TensorInfo Commit(std::optional<Sha256Digest> sha256 = std::nullopt) &&;

 private:
  friend class TensorStore;
  PendingTensor(TensorStore* store, std::shared_ptr<internal::Entry> entry);
  void Swap(PendingTensor& other) noexcept;
  TensorStore* store_ = nullptr;
  std::shared_ptr<internal::Entry> entry_;
};

class TensorStore {
 public:
  struct Options {
    std::size_t capacity_bytes = std::size_t{1} << 30;
    double high_watermark = 0.90;    // of capacity: eviction starts above it
    double low_watermark = 0.85;     // of capacity: and goes on down to it, if it can be reached
    Memory* spill_memory = nullptr;  // host-accessible; null: nothing is spilled
    std::size_t spill_capacity_bytes = 0;
    std::size_t tenant_quota_bytes = 0;  // in both memories; 0: all of both
    std::size_t max_tensor_bytes = 0;    // 0: the capacity
    absl::Duration default_ttl = absl::Minutes(10);
    absl::Duration max_ttl = absl::Hours(24);
    absl::Duration default_pin = absl::Minutes(1);
    absl::Duration max_pin = absl::Hours(1);
    // Monotonic time since any fixed point; a test injects its own.
    std::function<absl::Duration()> clock;
  };

  // Defaults over their maxima are cut to them.
  // REQUIRES: 0 < low_watermark <= high_watermark <= 1; positive durations.
  TensorStore(Memory& memory, Options options);
  ~TensorStore();
  TensorStore(const TensorStore&) = delete;
  TensorStore& operator=(const TensorStore&) = delete;

  const Options& options() const;
  Memory& memory() const;

  // Reserves room, spilling and evicting if needed; does neither where that would not be enough.
  // `ttl` and `pin` count from the commit. `ttl` zero: the default. `pin` zero: not pinned.
  // Errors: INVALID_ARGUMENT (with FieldOf "ttl_ms", "pin_ms", "shape" or "shape[axis]");
  // RESOURCE_EXHAUSTED: no room within the quota or the capacity even after eviction, or the Memory
  // has none even after Relieve; ExhaustedForGood for a tensor larger than the whole quota.
  absl::StatusOr<PendingTensor> Create(const TenantId& tenant, TensorSpec spec,
                                       absl::Duration ttl = absl::ZeroDuration(),
                                       absl::Duration pin = absl::ZeroDuration());

  // A tensor of this tenant with this content, or nothing. Its lease and, if `pin` is not zero, its
  // pin are extended to `ttl` and `pin` from now, never shortened.
  // Errors: INVALID_ARGUMENT (with FieldOf "ttl_ms" or "pin_ms").
  absl::StatusOr<std::optional<TensorInfo>> FindContent(const TenantId& tenant,
                                                        const TensorSpec& spec,
                                                        const Sha256Digest& sha256,
                                                        absl::Duration ttl,
                                                        absl::Duration pin = absl::ZeroDuration());

  // Each below. Errors: NOT_FOUND if the handle names no tensor of this tenant (unknown, expired,
  // evicted, deleted: indistinguishable); INVALID_ARGUMENT (with FieldOf "ttl_ms" or "pin_ms") for
  // a duration below zero or over the maximum; zero is the default.
  // Acquire moves a spilled tensor back first. Errors: also those of Create for want of room there.
  absl::StatusOr<TensorLease> Acquire(const TenantId& tenant, std::string_view handle);
  absl::StatusOr<TensorInfo> Stat(const TenantId& tenant, std::string_view handle);
  // Sets the lease, be it longer or shorter than before.
  absl::StatusOr<TensorInfo> Renew(const TenantId& tenant, std::string_view handle,
                                   absl::Duration ttl);
  // An earlier pin that lasts longer stays.
  absl::StatusOr<TensorInfo> Pin(const TenantId& tenant, std::string_view handle,
                                 absl::Duration pin);
  absl::StatusOr<TensorInfo> Unpin(const TenantId& tenant, std::string_view handle);
  absl::Status Delete(const TenantId& tenant, std::string_view handle);

  struct Page {
    std::vector<TensorInfo> tensors;  // oldest first
    std::string next_page_token;      // empty: the last page
  };
  // A tensor that stays throughout is on exactly one page, whatever comes and goes meanwhile.
  // Errors: INVALID_ARGUMENT (with FieldOf "page_token") for a token that is none.
  // REQUIRES: page_size > 0.
  absl::StatusOr<Page> List(const TenantId& tenant, int page_size, std::string_view page_token);

  // For a caller whom the Memory itself refused `size_bytes`, though all budgets held: gives up
  // about as many, spilling where it can, else dropping tensors of this tenant. Returns how many
  // bytes were freed; 0: there is nothing more to give.
  std::size_t Relieve(const TenantId& tenant, std::size_t size_bytes);

  // Drops what has expired now. Every other call does so too; a server calls this once a second,
  // so that an idle store gives its memory back.
  void CollectExpired();

  TensorStoreStats stats() const;

  // What one tenant may hold from now on, in both memories together and at most all of both; zero:
  // the default. Tensors that are there stay, also those over a quota that shrank.
  void SetQuota(const TenantId& tenant, std::size_t quota_bytes);

  // As stats(), of one tenant's tensors alone; the capacity is its quota.
  struct TenantStats {
    std::size_t quota_bytes = 0;
    std::size_t used_bytes = 0;
    std::size_t entries = 0;
  };
  TenantStats tenant_stats(const TenantId& tenant) const;

 private:
  friend class TensorLease;
  friend class PendingTensor;
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_TENSOR_STORE_H_
