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

// The row statistics that the gradients need, in the accumulator's type. A row that takes no part
// (no key left by the mask, or past seq_q) has log2_normalizer +inf, so that its probabilities are
// 0.
template <typename Accumulator>
struct alignas(16) RowStatistics {
  Accumulator log2_normalizer;  // lse in units of log 2
  Accumulator delta;            // rowsum(o_bar o)
  Accumulator mu;               // tangent of lse
  Accumulator delta_dot;        // tangent of delta
};

// Rows of statistics are padded to a multiple of this, so that kernels read whole tiles.
inline constexpr int kStatisticsRowMultiple = 128;

// Threads of a block of the statistics pass, and how many of them share a row.
inline constexpr int kStatisticsThreads = 256;
inline constexpr int kStatisticsThreadsPerRow = 8;

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

  void* lse;         // [batch, heads_q, seq_q], accumulator's type, nullable in forward and JVP
  void* lse_dot;     // the same
  void* statistics;  // RowStatistics [batch, heads_q, StatisticsRows(seq_q)]
};

constexpr std::int64_t StatisticsRows(std::int64_t seq_q) {
  return (seq_q + kStatisticsRowMultiple - 1) / kStatisticsRowMultiple * kStatisticsRowMultiple;
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_PARAMS_H_
