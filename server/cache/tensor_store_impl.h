#ifndef THERIA_SERVER_CACHE_TENSOR_STORE_IMPL_H_
#define THERIA_SERVER_CACHE_TENSOR_STORE_IMPL_H_

#include <array>
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
  EntryPtr Acquire(const TenantId& tenant, const std::optional<Handle>& handle);
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

  // All below: the mutex is held.
  Tenant& TenantOf(const TenantId& id);
  Entry* Find(const TenantId& tenant, const Handle& handle);
  absl::Status MakeRoom(Section& section, Tenant& tenant, std::size_t size_bytes);
  void ReleaseBytes(Entry& entry);
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
  ByteBudget capacity_;
  std::map<TenantId, std::unique_ptr<Tenant>> tenants_;
  absl::flat_hash_map<Handle, EntryPtr, Handle::Hash> entries_;
  std::set<std::pair<absl::Duration, Entry*>> timeline_;
  std::size_t pending_bytes_ = 0;
  std::size_t pinned_bytes_ = 0;
  std::uint64_t hits_ = 0;
  std::uint64_t misses_ = 0;
  std::array<std::uint64_t, 3> evictions_{};
};

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_TENSOR_STORE_IMPL_H_
