#ifndef THERIA_KERNELS_CPU_ARENA_H_
#define THERIA_KERNELS_CPU_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/api/memory.h"

// The workspace of one thread: one allocation, cut into float64 arrays that are each 64-byte
// aligned. First every array is reserved, then all are placed at once.

namespace theria::cpu {

class Arena {
 public:
  // `*array` will point at rows * columns uninitialised numbers after Allocate; it must live until
  // then. REQUIRES: no negative size.
  void Reserve(double** array, std::int64_t rows, std::int64_t columns = 1);

  // Errors: RESOURCE_EXHAUSTED.
  absl::Status Allocate();

 private:
  std::vector<std::pair<double**, std::size_t>> arrays_;  // where to store, offset in bytes
  std::size_t size_bytes_ = 0;
  bool overflow_ = false;
  Buffer buffer_;
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_ARENA_H_
