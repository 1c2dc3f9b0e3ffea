#ifndef THERIA_KERNELS_API_SCORE_MOD_H_
#define THERIA_KERNELS_API_SCORE_MOD_H_

#include <cstdint>

#include "kernels/api/dtype.h"
#include "kernels/api/host_device.h"
#include "kernels/api/philox.h"

// Everything that changes a score or a probability between the two products: causal, window, mask,
// dropout. A plain value, passed to kernels as it is and shared by all four operations and by all
// backends. Built by `MakeScoreMod` of kernels/api/attention.h.

namespace theria {

// Keys that may take part in one row of scores: begin <= j < end.
struct KeyRange {
  std::int64_t begin;
  std::int64_t end;
};

// The dropout matrix Z of docs/operator_contract.md. One Philox call serves the 2 x 2 block of
// scores whose row and column indices differ in their last bit only.
struct DropoutMod {
  PhiloxKey key = {0, 0};        // derived from (seed, offset), see MakeDropoutMod
  std::uint32_t drop_below = 0;  // a score is dropped if its 32 random bits are below this
  double keep_scale = 1.0;       // 1 / (1 - probability)

  THERIA_HOST_DEVICE bool enabled() const { return drop_below != 0; }

  // The four draws of the block that holds (i, j); element (i, j) is number 2 * (i & 1) + (j & 1).
  // `plane` is batch * heads_q + head.
  THERIA_HOST_DEVICE PhiloxCounter Block(std::uint64_t plane, std::int64_t i,
                                         std::int64_t j) const {
    return Philox4x32({static_cast<std::uint32_t>(j >> 1), static_cast<std::uint32_t>(i >> 1),
                       static_cast<std::uint32_t>(plane), static_cast<std::uint32_t>(plane >> 32)},
                      key);
  }

  THERIA_HOST_DEVICE bool Keeps(std::uint64_t plane, std::int64_t i, std::int64_t j) const {
    const PhiloxCounter block = Block(plane, i, j);
    const std::uint32_t row[2] = {(i & 1) ? block.z : block.x, (i & 1) ? block.w : block.y};
    return row[j & 1] >= drop_below;
  }
};

// A dropout of `probability` in [0, 1). The key is one Philox call over (offset, seed), so that
// neighbouring offsets give unrelated streams.
THERIA_HOST_DEVICE DropoutMod MakeDropoutMod(double probability, std::uint64_t seed,
                                             std::uint64_t offset) {
  DropoutMod mod;
  if (!(probability > 0.0)) return mod;
  const PhiloxCounter derived = Philox4x32(
      {static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(offset >> 32), 0, 0},
      {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  mod.key = {derived.x, derived.y};
  const double threshold = probability * 4294967296.0 + 0.5;
  mod.drop_below = threshold >= 4294967295.0 ? 4294967295u : static_cast<std::uint32_t>(threshold);
  mod.keep_scale = 1.0 / (1.0 - probability);
  return mod;
}

struct ScoreMod {
  // Key j takes part in row i only if i - window_left <= j <= i + window_right (causal: right 0).
  // Unbounded sides hold kUnbounded.
  static constexpr std::int64_t kUnbounded = std::int64_t{1} << 60;
  std::int64_t window_left = kUnbounded;
  std::int64_t window_right = kUnbounded;

  // The mask, broadcast to [batch, heads_q, seq_q, seq_kv] by strides of 0; null if there is none.
  const void* mask = nullptr;
  DType mask_dtype = DType::kBool;
  std::int64_t mask_strides[4] = {0, 0, 0, 0};  // elements

  DropoutMod dropout;

  // The keys that causal and window leave to row `i`; empty ranges have begin >= end.
  THERIA_HOST_DEVICE KeyRange Keys(std::int64_t i, std::int64_t seq_kv) const {
    const std::int64_t begin = i - window_left;
    const std::int64_t end = i + window_right + 1;
    return {begin < 0 ? 0 : begin, end < seq_kv ? end : seq_kv};
  }
};

}  // namespace theria

#endif  // THERIA_KERNELS_API_SCORE_MOD_H_
