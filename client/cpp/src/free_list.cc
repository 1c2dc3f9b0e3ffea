#include "client/cpp/src/free_list.h"

#include <algorithm>
#include <iterator>

namespace theria::client {

std::optional<std::size_t> FreeList::Take(std::size_t size_bytes) {
  absl::MutexLock lock(&mutex_);
  const auto hole = std::find_if(holes_.begin(), holes_.end(),
                                 [&](const auto& hole) { return hole.second >= size_bytes; });
  if (hole == holes_.end()) return std::nullopt;
  const auto [offset_bytes, free_bytes] = *hole;
  holes_.erase(hole);
  if (free_bytes > size_bytes) holes_[offset_bytes + size_bytes] = free_bytes - size_bytes;
  return offset_bytes;
}

void FreeList::Give(std::size_t offset_bytes, std::size_t size_bytes) {
  absl::MutexLock lock(&mutex_);
  const auto next = holes_.find(offset_bytes + size_bytes);
  if (next != holes_.end()) {
    size_bytes += next->second;
    holes_.erase(next);
  }
  const auto after = holes_.upper_bound(offset_bytes);
  if (after != holes_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == offset_bytes) {
      before->second += size_bytes;
      return;
    }
  }
  holes_[offset_bytes] = size_bytes;
}

}  // namespace theria::client
