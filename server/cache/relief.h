#ifndef THERIA_SERVER_CACHE_RELIEF_H_
#define THERIA_SERVER_CACHE_RELIEF_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/cache/tensor_store.h"

// Memory beside the store's own tensors, from the same Memory: whoever is refused it asks again as
// long as the store can give tensors up.

namespace theria::server {

// What `attempt()` gives (a StatusOr), tried anew after each relief while that is
// RESOURCE_EXHAUSTED. About `size_bytes` are asked of the store first, twice as many each time.
template <typename Attempt>
auto WithRelief(TensorStore& store, const TenantId& tenant, std::size_t size_bytes,
                const Attempt& attempt) {
  auto result = attempt();
  while (absl::IsResourceExhausted(result.status()) && store.Relieve(tenant, size_bytes) > 0) {
    size_bytes *= 2;
    result = attempt();
  }
  return result;
}

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_RELIEF_H_
