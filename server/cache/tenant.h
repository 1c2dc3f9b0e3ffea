#ifndef THERIA_SERVER_CACHE_TENANT_H_
#define THERIA_SERVER_CACHE_TENANT_H_

#include <cstdint>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "server/cache/byte_budget.h"
#include "server/cache/entry.h"
#include "server/cache/lru_list.h"
#include "server/cache/tensor_store.h"

// What the store keeps for one tenant: its quota and the indices over its readable tensors. Lives
// as long as the store; guarded by the store's mutex.

namespace theria::server::internal {

// Tensors are the same content if their bytes, dtype and shape are.
struct ContentKey {
  Sha256Digest sha256;
  TensorSpec spec;

  friend bool operator==(const ContentKey&, const ContentKey&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const ContentKey& key) {
    return H::combine(std::move(state), key.sha256, key.spec.dtype, key.spec.shape);
  }
};

struct Tenant {
  Tenant(TenantId tenant_id, std::size_t quota_bytes)
      : id(std::move(tenant_id)), quota(quota_bytes) {}

  const TenantId id;
  ByteBudget quota;
  LruList evictable;                       // neither pinned, being read nor spilled
  LruList spilled;                         // the same, in the spill memory
  std::map<std::uint64_t, Entry*> by_age;  // by Entry::sequence
  absl::flat_hash_map<ContentKey, Entry*> by_content;
  std::uint64_t next_sequence = 1;
};

}  // namespace theria::server::internal

#endif  // THERIA_SERVER_CACHE_TENANT_H_
