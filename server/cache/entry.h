#ifndef THERIA_SERVER_CACHE_ENTRY_H_
#define THERIA_SERVER_CACHE_ENTRY_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "kernels/api/memory.h"
#include "server/cache/handle.h"
#include "server/cache/tensor_store.h"

// One tensor of the store. The first group of members is constant once the tensor is shared, and
// the buffer as long as somebody reads it, so that a lease reads them without a lock; the rest
// belongs to the store's mutex. Times are those of the store's clock.

namespace theria::server::internal {

struct Tenant;

struct Entry {
  enum class State : std::uint8_t {
    kPending,   // being written; known to its PendingTensor only
    kReadable,  // in the store's indices
    kGone,      // in no index; its bytes count until the last reader leaves
  };

  Tenant* tenant = nullptr;
  Handle handle;
  TensorSpec spec;
  std::size_t size_bytes = 0;
  absl::Duration ttl;  // asked for at creation, counted from the commit
  absl::Duration pin;
  Buffer buffer;  // in the store's Memory, or in the spill memory if is_spilled

  State state = State::kPending;
  bool is_spilled = false;
  bool is_moving = false;  // a thread without the mutex copies the bytes to the other memory
  int readers = 0;
  std::uint64_t sequence = 0;  // the tenant's order of commits
  std::optional<Sha256Digest> sha256;
  absl::Duration expires_at;
  std::optional<absl::Duration> pinned_until;
  absl::Duration next_event;  // its key in the store's timeline
  Entry* older = nullptr;     // neighbours in one of the tenant's LruLists
  Entry* newer = nullptr;
  bool evictable = false;  // in one of them
};

}  // namespace theria::server::internal

#endif  // THERIA_SERVER_CACHE_ENTRY_H_
