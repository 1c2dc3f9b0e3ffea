#ifndef THERIA_KERNELS_CPU_ORDERED_SUMS_H_
#define THERIA_KERNELS_CPU_ORDERED_SUMS_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "kernels/api/memory.h"

// Gradients of keys and values are sums over all query blocks of a chain (kernels/cpu/blocking.h).
// Blocks of one chain run on several threads, yet add to each key tile in the order of their
// ordinals, each waiting for its turn, so that sums are bitwise the same whatever the scheduling.
// The threads follow each other through the tiles one tile apart and seldom wait.
//
// Each block must enter and leave every tile, in ascending order, also those that it has nothing to
// add to, and also after an error: the next block waits for it. A chain's sums are allocated with
// its first block and freed with its last. Thread-safe.

namespace theria::cpu {

class OrderedSums {
 public:
  struct Size {
    std::int64_t chains;
    std::int64_t chain_blocks;  // ordinals of a chain
    std::int64_t tiles;
    std::int64_t tile_elements;  // float64 numbers in a tile's sums
  };

  // Errors: RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<OrderedSums>> Make(const Size& size);

  // Called once by the block of ordinal 0 before it enters its first tile; zeroes the sums. Errors:
  // RESOURCE_EXHAUSTED; then Enter gives null.
  absl::Status Open(std::int64_t chain);

  // Waits for the block's turn on a tile and returns the tile's sums.
  double* Enter(std::int64_t chain, std::int64_t ordinal, std::int64_t tile);

  // Whether all other blocks have added to the tiles that this one enters.
  bool IsLast(std::int64_t ordinal) const { return ordinal == size_.chain_blocks - 1; }

  // Passes the turn on.
  void Leave(std::int64_t chain, std::int64_t ordinal, std::int64_t tile);

 private:
  explicit OrderedSums(const Size& size) : size_(size) {}

  std::atomic<std::int64_t>& Turn(std::int64_t chain, std::int64_t tile) {
    return turns_[chain * size_.tiles + tile];
  }

  const Size size_;
  std::unique_ptr<std::atomic<std::int64_t>[]> turns_;  // [chains, tiles], the ordinal to go next
  std::unique_ptr<Buffer[]> sums_;                      // [chains]
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_ORDERED_SUMS_H_
