#ifndef THERIA_SERVER_CACHE_LRU_LIST_H_
#define THERIA_SERVER_CACHE_LRU_LIST_H_

#include <cassert>
#include <cstddef>

#include "server/cache/entry.h"

// The entries that may be evicted, least recently used first. Intrusive: every operation takes
// constant time and none allocates. Not thread-safe.

namespace theria::server::internal {

class LruList {
 public:
  Entry* oldest() const { return oldest_; }
  std::size_t size_bytes() const { return size_bytes_; }  // of all entries together

  // REQUIRES: `entry` is in no list.
  void Append(Entry& entry) {
    assert(!entry.evictable);
    entry.older = newest_;
    entry.newer = nullptr;
    (newest_ != nullptr ? newest_->newer : oldest_) = &entry;
    newest_ = &entry;
    entry.evictable = true;
    size_bytes_ += entry.size_bytes;
  }

  // Nothing if `entry` is in no list. REQUIRES: it is in no other.
  void Remove(Entry& entry) {
    if (!entry.evictable) return;
    (entry.older != nullptr ? entry.older->newer : oldest_) = entry.newer;
    (entry.newer != nullptr ? entry.newer->older : newest_) = entry.older;
    entry.older = entry.newer = nullptr;
    entry.evictable = false;
    size_bytes_ -= entry.size_bytes;
  }

 private:
  Entry* oldest_ = nullptr;
  Entry* newest_ = nullptr;
  std::size_t size_bytes_ = 0;
};

}  // namespace theria::server::internal

#endif  // THERIA_SERVER_CACHE_LRU_LIST_H_
