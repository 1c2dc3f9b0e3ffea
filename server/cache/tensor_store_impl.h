#ifndef THERIA_SERVER_CACHE_TENSOR_STORE_IMPL_H_
#define THERIA_SERVER_CACHE_TENSOR_STORE_IMPL_H_

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/cache/byte_budget.h"
#include "server/cache/entry.h"
#include "server/cache/handle.h"
#include "server/cache/tenant.h"
#include "server/cache/tensor_store.h"

// The store's state behind one mutex. Arguments are checked already: durations are resolved, sizes
// known, handles parsed.
//
// Entries are found by handle, by content and by age, evicted from their tenant's LruList and timed
// out by one timeline, which holds each readable entry once: at the end of its pin if it is pinned,
// else at the end of its lease. Everything is O(1) or O(log entries). Memory is allocated before,
// and freed after, the mutex is held.
//
// Bytes move between the memories without the mutex, too: the entry says so in is_moving and is in
// no list meanwhile. A tensor on its way out can be read where it still is, which ends the move;
// one on its way in is waited for. Nobody who moves bytes out waits for anything, so waits end.

namespace theria::server {

class TensorStore::Impl {
 public:
  using EntryPtr = std::shared_ptr<internal::Entry>;

  Impl(Memory& memory, Options options);

  const Options& options() const { return options_; }
  Memory& memory() const { return memory_; }

  absl::StatusOr<EntryPtr> Create(const TenantId& tenant, TensorSpec spec, std::size_t size_bytes,
                                  absl::Duration ttl, absl::Duration pin);
  TensorInfo Commit(EntryPtr entry, const std::optional<Sha256Digest>& sha256);
  void Abort(const EntryPtr& entry);

  std::optional<TensorInfo> FindContent(const TenantId& tenant, const TensorSpec& spec,
                                        const Sha256Digest& sha256, absl::Duration ttl,
                                        absl::Duration pin);

  // Null, or nothing, if there is no such tensor.
  absl::StatusOr<EntryPtr> Acquire(const TenantId& tenant, const std::optional<Handle>& handle);
  std::optional<TensorInfo> Stat(const TenantId& tenant, const Handle& handle);
  std::optional<TensorInfo> Renew(const TenantId& tenant, const Handle& handle, absl::Duration ttl);
  std::optional<TensorInfo> Pin(const TenantId& tenant, const Handle& handle, absl::Duration pin);
  std::optional<TensorInfo> Unpin(const TenantId& tenant, const Handle& handle);
  bool Delete(const TenantId& tenant, const Handle& handle);

  void Release(const EntryPtr& entry);
  TensorInfo Info(const internal::Entry& entry);

  // The first `page_size` tensors committed after number `after`, and the number to go on from,
  // if there are more. Nothing if the tenant has not come to `after` yet.
  struct Slice {
    std::vector<TensorInfo> tensors;
    std::optional<std::uint64_t> next;
  };
  std::optional<Slice> List(const TenantId& tenant, std::size_t page_size, std::uint64_t after);

  std::size_t Relieve(const TenantId& tenant, std::size_t size_bytes);
  void CollectExpired();
  TensorStoreStats stats();
  void SetQuota(const TenantId& tenant, std::size_t quota_bytes);
  TenantStats tenant_stats(const TenantId& tenant);

 private:
  using Entry = internal::Entry;
  using Tenant = internal::Tenant;

  // The mutex held and the timeline run up to now. What leaves the store meanwhile is freed after
  // the mutex is released.
  class Section {
   public:
    explicit Section(Impl& impl);
    absl::Duration now() const { return now_; }

   private:
    friend class Impl;
    std::vector<EntryPtr> garbage_;
    std::unique_lock<std::mutex> lock_;
    absl::Duration now_;
  };

  // Whom room is made for.
  enum class Claim : std::uint8_t { kNewTensor, kSpilledTensor };

  // All three: without the mutex.
  // Reserves room in the store's Memory, and for a new tensor in its tenant's quota.
  absl::Status ClaimRoom(Tenant& tenant, std::size_t size_bytes, Claim claim);
  absl::StatusOr<Buffer> Allocate(Tenant& tenant, std::size_t size_bytes);
  // Moves out what BeginSpill began; where that fails and `may_drop`, drops it. Returns the bytes
  // freed: 0 if somebody uses the tensor again.
  std::size_t Spill(const EntryPtr& entry, bool may_drop);
  // REQUIRES: the caller is a reader and has set is_moving.
  absl::Status Restore(Entry& entry);

  // All below: the mutex is held.
  Tenant& TenantOf(const TenantId& id);
  Entry* Find(const TenantId& tenant, const Handle& handle);
  // OK if there is room already, or as soon as `victims` are spilled. May wait.
  absl::Status MakeRoom(Section& section, Tenant& tenant, std::size_t size_bytes, Claim claim,
                        std::vector<EntryPtr>& victims);
  absl::Status CheckRoom(const Tenant& tenant, std::size_t size_bytes, Claim claim) const;
  // Reserves room in the spill memory, dropping older spilled tensors of the tenant if `may_drop`,
  // and takes the entry from its list. Returns whether it could.
  bool BeginSpill(Section& section, Entry& entry, bool may_drop, std::vector<EntryPtr>& victims);
  static internal::LruList& IdleList(Entry& entry) {
    return entry.is_spilled ? entry.tenant->spilled : entry.tenant->evictable;
  }
  static bool IsIdle(const Entry& entry) {
    return entry.state == Entry::State::kReadable && entry.readers == 0 &&
           !entry.pinned_until.has_value();
  }
  // Back into its list, if nothing keeps it out.
  static void AppendIfIdle(Entry& entry) {
    if (IsIdle(entry) && !entry.is_moving) IdleList(entry).Append(entry);
  }
  // Gives back the bytes of an entry that is gone, once nobody touches them.
  void ReleaseIfUnused(Entry& entry);
  void Remove(Section& section, Entry& entry, EvictionReason reason);
  void RunTimeline(Section& section);
  void Reschedule(Entry& entry);
  void Extend(Entry& entry, absl::Duration now, absl::Duration ttl, absl::Duration pin);
  void SetPin(Entry& entry, absl::Duration pin_end);
  void EndPin(Entry& entry);
  void Touch(Entry& entry);
  TensorInfo Describe(const Entry& entry, absl::Duration now) const;

  Memory& memory_;
  const Options options_;
  const std::size_t high_bytes_;
  const std::size_t low_bytes_;

  std::mutex mutex_;
  std::condition_variable moved_;  // an entry stopped moving
  ByteBudget capacity_;
  ByteBudget spill_capacity_;
  std::size_t spilling_bytes_ = 0;  // of capacity_, about to be released
  std::map<TenantId, std::unique_ptr<Tenant>> tenants_;
  absl::flat_hash_map<Handle, EntryPtr, Handle::Hash> entries_;
  std::set<std::pair<absl::Duration, Entry*>> timeline_;
  std::size_t pending_bytes_ = 0;
  std::size_t pinned_bytes_ = 0;
  std::uint64_t hits_ = 0;
  std::uint64_t misses_ = 0;
  std::array<std::uint64_t, 3> evictions_{};
  std::uint64_t spills_ = 0;
  std::uint64_t spill_traffic_bytes_ = 0;
  std::uint64_t restores_ = 0;
  std::uint64_t restore_traffic_bytes_ = 0;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_TENSOR_STORE_IMPL_H_
