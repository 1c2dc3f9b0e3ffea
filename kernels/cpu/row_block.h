#ifndef THERIA_KERNELS_CPU_ROW_BLOCK_H_
#define THERIA_KERNELS_CPU_ROW_BLOCK_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/api/attention.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/blocking.h"
#include "kernels/cpu/run_state.h"
#include "kernels/cpu/tile_math.h"
#include "kernels/cpu/tile_product.h"

// One thread's work on one query block at a time, in float64.
//
// The score pass fills the block's score matrices for all its keys, [keys, queries] each, and then
// the row statistics. After it everything that the formulas of docs/operator_contract.md hold is at
// hand, and the operations go over the key tiles a second time to form their outputs. No score and
// no exponential is computed twice, and no sum is rescaled on the way, as an online softmax would.
//
// Not thread-safe: a thread has its own.

namespace theria::cpu {

// What does not change from block to block. The references must outlive the run.
struct RunContext {
  const AttentionProblem& problem;
  const AttentionInputs& inputs;
  const AttentionOutputs& outputs;
  ScoreMod mod;
  Blocking blocking;
};

// What an operation wants from the score pass, and which results it adds up.
struct Needs {
  bool s_dot = false;
  bool p_bar = false;
  bool second_order = false;  // s_dot, p_bar, p_bar_dot (zero where their inputs are), delta_dot
  bool o = false, o_dot = false, q_bar = false, q_bar_dot = false;
  bool k_bar = false, v_bar = false, k_bar_dot = false, v_bar_dot = false;
  bool bias_bar = false, bias_bar_dot = false;

  bool AnyRows() const { return o || o_dot || q_bar || q_bar_dot; }
  bool AnyKeys() const { return k_bar || v_bar || k_bar_dot || v_bar_dot; }
  bool AnyBias() const { return bias_bar || bias_bar_dot; }
};

class RowBlock {
 public:
  // Query rows as they are, [queries, dim], and transposed, [dim, queries].
  struct QueryRows {
    double* rows = nullptr;
    double* columns = nullptr;
  };
  // The keys' or values' tile read last, [tile_keys, dim].
  struct KeyTile {
    double* data = nullptr;
    std::int64_t tile = -1;
  };

  RowBlock(const RunContext& context, const Needs& needs);

  // Errors: RESOURCE_EXHAUSTED.
  absl::Status Allocate();

  // Reads the block's rows and zeroes its results.
  void Begin(const QueryBlock& block);

  // Fills score matrices and statistics. False if `state` stopped it.
  bool ScorePass(RunState& state);

  // Writes the block's rows of the outputs that an operation adds up, and the statistics.
  void WriteRows();

  // Turns a tile's s_dot into P_dot, p_bar into S_bar and p_bar_dot into S_bar_dot, as far as they
  // are there; p holds P.
  void Differentiate(std::int64_t tile);

  // Turns S_bar into U_bar and S_bar_dot into U_bar_dot, which differ with a soft cap only.
  void Uncap(std::int64_t tile);

  // Z of a tile, or null without dropout.
  const double* Keep(std::int64_t tile);

  // x = x∘keep on a tile of a score matrix; none of either is nothing to do.
  void ApplyKeep(const double* keep, double* matrix, std::int64_t tile);

  // The tile of an input, read if it is not yet there; null for an absent tangent.
  const double* K(std::int64_t tile) { return ReadKeys(inputs_.k, tile, k_); }
  const double* V(std::int64_t tile) { return ReadKeys(inputs_.v, tile, v_); }
  const double* KDot(std::int64_t tile) { return ReadKeys(inputs_.k_dot, tile, k_dot_); }
  const double* VDot(std::int64_t tile) { return ReadKeys(inputs_.v_dot, tile, v_dot_); }

  // result[queries, dim] += weights^T keys over the visible pairs of a tile of a score matrix;
  // `dim` is padded. No `weights` or no `keys` is zero.
  void AddToRows(const double* weights, std::int64_t tile, const double* keys, std::int64_t dim,
                 double* result) const;

  // sums[keys, dim] += weights rows over the visible pairs of a tile of a score matrix. No
  // `weights` or no `rows` is zero.
  void AddToKeys(const double* weights, std::int64_t tile, const double* rows, std::int64_t dim,
                 double* sums) const;

  TileSize Size(std::int64_t tile) const;
  // A tile of a score matrix; null for none.
  const double* Tile(const double* matrix, std::int64_t tile) const {
    return matrix == nullptr ? nullptr : matrix + Offset(tile);
  }
  const QueryBlock& block() const { return block_; }

  // Score matrices [keys of the block's tiles, queries], null where not needed. p holds scores
  // first and probabilities after the score pass; its sign bits mark forbidden pairs
  // (kernels/cpu/tile_math.h), where the other matrices hold anything until Differentiate.
  double* p = nullptr;
  double* s_dot = nullptr;  // S_dot is s_dot_scale_ times this
  double* p_bar = nullptr;
  double* p_bar_dot = nullptr;

  QueryRows q, q_dot, o_bar, o_bar_dot;  // null where absent or not needed
  double *o = nullptr, *o_dot = nullptr, *q_bar = nullptr, *q_bar_dot = nullptr;  // [queries, dim]

 private:
  void ReserveRows(const std::optional<TensorView>& view, bool needed, bool transposed,
                   std::int64_t dim, QueryRows& rows);
  void ReadRows(const std::optional<TensorView>& view, std::int64_t dim, QueryRows& rows);
  const double* ReadKeys(const std::optional<TensorView>& view, std::int64_t tile, KeyTile& keys);
  void ScoreTile(std::int64_t tile);
  void FinishTangents(std::int64_t tile);
  bool Softmax(RunState& state);
  void CopySavedOutput();

  // Whether the products of a tile with `operand` must leave out the forbidden pairs one by one. A
  // weight of 0 leaves them out at full speed, unless the operand holds a NaN or an infinity.
  bool MustSkipForbidden(std::int64_t tile, std::int64_t rows, std::int64_t dim,
                         const double* operand) const {
    return has_bias_[tile - block_.first_tile] && !AllFinite(rows * dim, operand);
  }

  // Where a tile starts in a score matrix.
  std::int64_t Offset(std::int64_t tile) const {
    return (tile - block_.first_tile) * blocking_.tile_keys * blocking_.block_queries;
  }

  const RunContext& context_;
  const AttentionInputs& inputs_;
  const Blocking& blocking_;
  const Needs needs_;
  Arena arena_;
  QueryBlock block_;
  KeyTile k_, v_, k_dot_, v_dot_;
  double* bias_ = nullptr;
  // The soft cap's t of one tile; its w and bend, score matrices. Null without one.
  double* cap_t_ = nullptr;
  double* cap_w_ = nullptr;
  double* cap_bend_ = nullptr;
  const double s_dot_scale_;    // `scale`, unless it is in s_dot already
  std::vector<bool> has_bias_;  // by tile of the block; without a bias no pair is forbidden
  double* keep_ = nullptr;
  std::int64_t keep_tile_ = -1;
  // Row statistics [queries].
  double* row_max_ = nullptr;
  double* row_sum_ = nullptr;
  double* lse_ = nullptr;
  double* mu_ = nullptr;
  double* delta_ = nullptr;      // less lse_bar, once the score pass is over
  double* delta_dot_ = nullptr;  // less lse_bar_dot
  double* lse_bar_ = nullptr;    // null where absent
  double* lse_bar_dot_ = nullptr;
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_ROW_BLOCK_H_
