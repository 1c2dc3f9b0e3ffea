#ifndef THERIA_KERNELS_CPU_OUTPUT_PASS_H_
#define THERIA_KERNELS_CPU_OUTPUT_PASS_H_

#include <cstdint>

#include "kernels/cpu/row_block.h"

// The second time over the key tiles of a query block, after the score pass
// (kernels/cpu/row_block.h): what an operation adds to its outputs for each tile. Blocks, tiles,
// threads and writing are the same for all operations (kernels/cpu/run.h).

namespace theria::cpu {

// A tile's sums over all rows, [tile_keys, dim] each; null where not needed.
struct KeySums {
  double* k_bar = nullptr;
  double* v_bar = nullptr;
  double* k_bar_dot = nullptr;
  double* v_bar_dot = nullptr;
};

// Stateless and thread-safe.
class OutputPass {
 public:
  virtual ~OutputPass() = default;

  virtual Needs NeedsFor(const AttentionInputs& inputs, const AttentionOutputs& outputs) const = 0;

  // Adds the tile's part to o, o_dot, q_bar and q_bar_dot of the block, and leaves the block's
  // matrices as AddToKeys wants them. REQUIRES: RowBlock::Differentiate and Uncap of the tile.
  virtual void AddToRows(std::int64_t tile, const Blocking& blocking, RowBlock& rows) const = 0;

  // Adds the block's part to the sums of the tile. Called only if NeedsFor has sums over keys.
  virtual void AddToKeys(std::int64_t tile, const Blocking& blocking, const RowBlock& rows,
                         const KeySums& sums) const = 0;
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_OUTPUT_PASS_H_
