#ifndef THERIA_CLIENT_CPP_SRC_FREE_LIST_H_
#define THERIA_CLIENT_CPP_SRC_FREE_LIST_H_

#include <cstddef>
#include <map>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace theria::client {

// Which bytes of a range are free. Takes from the first hole that is large enough. Thread-safe.
class FreeList {
 public:
  explicit FreeList(std::size_t size_bytes) : holes_({{0, size_bytes}}) {}

  // The offset of so many bytes, which are the caller's until given back; none without such a hole.
  // REQUIRES: size_bytes > 0.
  std::optional<std::size_t> Take(std::size_t size_bytes);
  void Give(std::size_t offset_bytes, std::size_t size_bytes);

 private:
  absl::Mutex mutex_;
  std::map<std::size_t, std::size_t> holes_ ABSL_GUARDED_BY(mutex_);  // size by offset; none touch
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_FREE_LIST_H_
