#ifndef THERIA_KERNELS_CUDA_ATTENTION_PARAMS_H_
#define THERIA_KERNELS_CUDA_ATTENTION_PARAMS_H_

#include <cstdint>

#include "kernels/api/score_mod.h"

// What the attention kernels read: plain values, passed to a kernel as they are. Symbols and shapes
// are those of docs/operator_contract.md.

namespace theria::cuda {

// Rows of `head_dim` adjacent elements; strides count elements. Null if the tensor is absent.
// A row starts at a 16-byte boundary and fills a multiple of 16 bytes (the backend packs others).
template <typename Void>
struct Rows {
  Void* data = nullptr;
  std::int64_t batch_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t row_stride = 0;
};
using InputRows = Rows<const void>;
using OutputRows = Rows<void>;

// What the softmax of a row leaves behind, in the accumulator's type. `base` is the row's largest
// score, in the units of the kernel that wrote it: natural for general kernels, log 2 for the
// others. `sum` adds exp(score - base) and is 0 for a row without any key. It is negative where one
// key is all of it, because the terms of the others are lost to rounding.
template <typename Accumulator>
struct SoftmaxSum {
  Accumulator base;
  Accumulator sum;
};

// The row statistics that the gradients need, in the accumulator's type. P = exp(S - shift) times
// the row's inverse sum. Where the scores are small, `shift` is lse and the inverse sum is 1; where
// lse would round the sum away, they are apart (docs/decisions/0009-row-statistics.md). A row that
// takes no part (no key left by the mask, or past seq_q) has a shift of +inf, so that its
// probabilities are 0.
template <typename Accumulator>
struct alignas(16) RowStatistics {
  Accumulator shift;      // in the units of SoftmaxSum::base
  Accumulator delta;      // rowsum(o_bar o) - lse_bar
  Accumulator mu;         // tangent of lse
  Accumulator delta_dot;  // tangent of delta
};

// A float32 lse of at most this size, in natural units, keeps the sum to 2^-19: enough for
// probabilities that are rounded to 11 bits or fewer anyway.
inline constexpr float kLargestFoldedLse = 44.0f;

// Rows of statistics are padded to a multiple of this, so that kernels read whole tiles.
inline constexpr int kStatisticsRowMultiple = 128;

// Threads of a block of the statistics pass, and how many of them share a row.
inline constexpr int kStatisticsThreads = 256;
inline constexpr int kStatisticsThreadsPerRow = 8;
inline constexpr int kStatisticsRowsPerBlock = kStatisticsThreads / kStatisticsThreadsPerRow;

// Rows that share a flag, and slices of the columns that each have a byte of it.
inline constexpr int kNanGroupRows = 16;
inline constexpr int kNanSlices = 4;

// The keys that take part in one query, begin <= j < end, before any mask, and where its diagonal
// is: the key from which ALiBi counts the distance.
struct alignas(16) RowKeys {
  std::int32_t begin, end, diagonal, unused;
};

// The queries in which one key takes part, likewise.
struct KeyQueries {
  std::int32_t begin, end;
};

struct AttentionParams {
  std::int32_t batch, heads_q, heads_kv, group;  // group = heads_q / heads_kv
  std::int32_t seq_q, seq_kv;
  std::int32_t head_dim, head_dim_v;  // multiples of 16 bytes
  double scale;
  ScoreMod score_mod;

  InputRows q, k, v;                           // [batch, heads, seq, dim]
  InputRows q_dot, k_dot, v_dot;               // nullable: zero
  InputRows o_bar, o_bar_dot;                  // o_bar_dot nullable: zero
  InputRows o, o_dot;                          // read by the statistics pass only
  OutputRows o_out, o_dot_out;                 // nullable
  OutputRows q_bar, k_bar, v_bar;              // nullable
  OutputRows q_bar_dot, k_bar_dot, v_bar_dot;  // nullable

  // Whether scores are in natural units and may be masked, see score_tile.cuh. The kernels of one
  // call agree on it: row sums of one kind mean nothing to the other.
  bool general;

  void* lse;       // [batch, heads_q, seq_q], accumulator's type, nullable; written
  void* lse_dot;   // the same
  void* row_sums;  // SoftmaxSum [batch, heads_q, seq_q], nullable; written by forward and JVP
  // An earlier forward's lse, nullable. Rows where it is exact enough are not computed again.
  const void* saved_lse;

  // Nullable: where kernels note NaN among their outputs, see recompute/recompute.h. A word for
  // each kNanGroupRows rows of each head, a byte for each slice of the columns.
  std::uint32_t* nan_flags;

  // Written by the statistics pass, [batch, heads_q, StatisticsRows(seq_q)].
  void* statistics;  // RowStatistics
  // Accumulator's type. Negative where one key is all of the sum: then the derivatives of the row's
  // probabilities are differences of equal numbers, which would not vanish by themselves.
  void* inverse_sums;
  std::uint8_t* unfolded;  // of kStatisticsRowsPerBlock rows each: whether an inverse sum is not 1

  // Where kVjp adds up q_bar / scale: float32 [batch, heads_q, StatisticsRows(seq_q),
  // q_bar_sum_columns], in the order that sm90a/q_bar_sum.cuh describes. The statistics pass zeroes
  // it. Nullable for the other kernels.
  float* q_bar_sum;
  std::int32_t q_bar_sum_columns;  // a multiple of 64
  std::uint32_t* q_bar_nan_flags;  // kVjp's nan_flags of q_bar, those of nan_flags being of keys

  // Cotangents of lse, [batch, heads_q, seq_q] in the accumulator's type, nullable. Read by the
  // statistics pass, which subtracts them from delta and delta_dot; no other kernel knows of them.
  const void* lse_bar;
  const void* lse_bar_dot;

  // Read by extended kernels only. Written by row_keys.cu, which see.
  const RowKeys* row_keys;        // [batch, seq_q]
  const KeyQueries* key_queries;  // [batch, seq_kv]
  // The tangent of the mask, of its dtype and broadcast as it is; null: zero.
  const void* bias_dot;
  std::int64_t bias_dot_strides[4];

  // A word that the launch zeroes, from which the blocks of a persistent grid take tiles of unequal
  // length. Null: every block takes as many as the others.
  std::uint32_t* tile_counter;
};

constexpr std::int64_t NanGroups(std::int64_t rows) {
  return (rows + kNanGroupRows - 1) / kNanGroupRows;
}

constexpr std::int64_t StatisticsRows(std::int64_t seq_q) {
  return (seq_q + kStatisticsRowMultiple - 1) / kStatisticsRowMultiple * kStatisticsRowMultiple;
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_PARAMS_H_
