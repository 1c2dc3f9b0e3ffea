#ifndef THERIA_KERNELS_CPU_BIAS_SUMS_H_
#define THERIA_KERNELS_CPU_BIAS_SUMS_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "kernels/cpu/ordered_sums.h"
#include "kernels/cpu/row_block.h"

// bias_bar and bias_bar_dot: S_bar and S_bar_dot, summed in float64 over the dimensions that the
// bias broadcasts over, and rounded once. Nothing of the size of all scores is stored.
//
// Query blocks that add to the same elements form a group and take turns, in the order of their
// indices, as OrderedSums says. The sums of a group are [tile_keys, block_queries] for each key
// tile, or one row or column of that where the bias has an extent of 1. Thread-safe.

namespace theria::cpu {

class BiasSums {
 public:
  // `context` must outlive this. Null where no output of the bias is wanted.
  // Errors: RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<BiasSums>> Make(const RunContext& context);

  // To be called by every block before its first tile. Errors: RESOURCE_EXHAUSTED.
  absl::Status Open(const QueryBlock& block);

  // Waits for the block's turn on a tile, adds the tiles of S_bar and S_bar_dot [keys, queries]
  // (null: nothing), and passes the turn on. The last block of a group writes the outputs, unless
  // `stopped`. To be called for every tile in ascending order.
  void Add(const QueryBlock& block, std::int64_t tile, const double* s_bar, const double* s_bar_dot,
           bool stopped);

 private:
  // bias_bar or bias_bar_dot.
  struct Output {
    MutableTensorView view;
    std::array<std::int64_t, kMaxRank> strides;  // of [batch, head, query, key]
  };

  explicit BiasSums(const RunContext& context);

  std::int64_t Group(const QueryBlock& block) const { return Index(block, true); }
  std::int64_t Ordinal(const QueryBlock& block) const { return Index(block, false); }
  // Counts blocks along the dimensions that the bias has, or along the others.
  std::int64_t Index(const QueryBlock& block, bool kept) const;

  std::int64_t PartElements() const { return sum_keys_ * sum_queries_; }
  void AddTile(const QueryBlock& block, std::int64_t tile, const double* s, double* sums) const;
  void Write(const QueryBlock& block, std::int64_t tile, const double* sums, int part) const;

  const RunContext& context_;
  const Blocking& blocking_;
  std::array<std::int64_t, 3> extents_;           // batch, heads_q, query blocks
  std::array<bool, kMaxRank> kept_;               // by dimension of the scores: the bias has it
  std::int64_t sum_keys_, sum_queries_;           // extents of a tile's sums
  std::array<std::optional<Output>, 2> outputs_;  // bias_bar, bias_bar_dot
  std::unique_ptr<OrderedSums> sums_;
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_BIAS_SUMS_H_
