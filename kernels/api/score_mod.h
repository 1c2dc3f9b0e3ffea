#ifndef THERIA_KERNELS_API_SCORE_MOD_H_
#define THERIA_KERNELS_API_SCORE_MOD_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/api/dtype.h"
#include "kernels/api/host_device.h"
#include "kernels/api/philox.h"

// Everything that changes a score or a probability between the two products: which keys a row sees,
// soft cap, ALiBi, mask and dropout. A plain value, passed to kernels as it is and shared by all
// four operations and by all backends. Built by `MakeScoreMod` of kernels/api/attention.h.
//
// The arithmetic of an option stands here once. With U = scale * q k^T,
//   S = Softcap(U) + Alibi + mask
// over the keys of Row. Pointers are memory of the backend; their contents are clamped wherever
// they are used as indices, so that wrong ones give wrong values but no access out of bounds.

namespace theria {

// Keys that may take part in one row of scores: begin <= j < end; none if begin >= end.
struct KeyRange {
  std::int64_t begin;
  std::int64_t end;
};

// A row of scores: its keys, and the key that lies on its diagonal, which may be out of range.
struct ScoreRow {
  KeyRange keys;
  std::int64_t diagonal;
};

// A vector of int32, null if there is none. On the host it need not be aligned.
struct IndexVector {
  const void* data = nullptr;
  std::int64_t stride = 0;  // elements

  // The element, clamped to [0, limit].
  THERIA_HOST_DEVICE std::int64_t At(std::int64_t index, std::int64_t limit) const {
    const char* const element =
        static_cast<const char*>(data) + index * stride * std::int64_t{sizeof(std::int32_t)};
#ifdef __CUDA_ARCH__
    const std::int64_t value = *reinterpret_cast<const std::int32_t*>(element);
#else
    std::int32_t loaded;
    std::memcpy(&loaded, element, sizeof(loaded));
    const std::int64_t value = loaded;
#endif
    return value < 0 ? 0 : value > limit ? limit : value;
  }
};

// The soft cap: S = c t + B with t = tanh(U / c). Its derivative dS/dU is w = 1 - t^2, and dw/dU is
// -(2 / c) t w.
struct SoftcapMod {
  double cap = 0.0;  // c; 0: none

  THERIA_HOST_DEVICE bool enabled() const { return cap != 0.0; }

  template <typename Real>
  THERIA_HOST_DEVICE Real Tanh(Real u) const {
    using std::tanh;
    return tanh(u / static_cast<Real>(cap));
  }
  template <typename Real>
  THERIA_HOST_DEVICE Real Score(Real t) const {
    return static_cast<Real>(cap) * t;
  }
  template <typename Real>
  THERIA_HOST_DEVICE Real Slope(Real t) const {
    return (Real(1) - t) * (Real(1) + t);
  }
  // (2 / c) t * (w U_dot), which the tangent of U_bar subtracts S_bar times:
  //   U_bar_dot = w S_bar_dot - Bend S_bar
  template <typename Real>
  THERIA_HOST_DEVICE Real Bend(Real t, Real slope_times_u_dot) const {
    return Real(2) * t / static_cast<Real>(cap) * slope_times_u_dot;
  }
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
  static constexpr std::int64_t kUnbounded = std::int64_t{1} << 60;

  std::int64_t seq_q = 0;
  std::int64_t seq_kv = 0;

  // Key j takes part in a row only if diagonal - window_left <= j <= diagonal + window_right
  // (causal: right 0). Unbounded sides hold kUnbounded.
  std::int64_t window_left = kUnbounded;
  std::int64_t window_right = kUnbounded;
  // The diagonal ends at the last query and the last key instead of starting at the first ones.
  bool lower_right = false;

  // Key j takes part in batch b only if j < kv_lengths[b].
  IndexVector kv_lengths;

  // Packed documents: rows cu_seqlens_q[d] to cu_seqlens_q[d + 1] see the keys from
  // cu_seqlens_kv[d] to cu_seqlens_kv[d + 1] only.
  IndexVector cu_seqlens_q, cu_seqlens_kv;
  std::int64_t documents = 0;

  SoftcapMod softcap;

  // ALiBi's slopes by [batch, head]; null if there are none.
  const void* alibi_slopes = nullptr;
  DType alibi_dtype = DType::kFloat32;
  std::int64_t alibi_strides[2] = {0, 0};  // elements

  // The mask, broadcast to [batch, heads_q, seq_q, seq_kv] by strides of 0; null if there is none.
  const void* mask = nullptr;
  DType mask_dtype = DType::kBool;
  std::int64_t mask_strides[4] = {0, 0, 0, 0};  // elements

  DropoutMod dropout;

  // The row that query `i` of a batch makes.
  THERIA_HOST_DEVICE ScoreRow Row(std::int64_t batch, std::int64_t i) const {
    std::int64_t first_query = 0, end_query = seq_q, first_key = 0, end_key = seq_kv;
    if (cu_seqlens_q.data != nullptr) {
      const std::int64_t document = DocumentOf(i);
      if (document < 0 || document >= documents) return {{0, 0}, 0};  // past the last document
      first_query = cu_seqlens_q.At(document, seq_q);
      end_query = cu_seqlens_q.At(document + 1, seq_q);
      first_key = cu_seqlens_kv.At(document, seq_kv);
      end_key = cu_seqlens_kv.At(document + 1, seq_kv);
    }
    std::int64_t diagonal = first_key + (i - first_query);
    if (lower_right) diagonal += (end_key - first_key) - (end_query - first_query);
    if (kv_lengths.data != nullptr) {
      const std::int64_t length = kv_lengths.At(batch, seq_kv);
      end_key = end_key < length ? end_key : length;
    }
    const std::int64_t begin = diagonal - window_left;
    const std::int64_t end = diagonal + window_right + 1;
    return {{begin > first_key ? begin : first_key, end < end_key ? end : end_key}, diagonal};
  }

  THERIA_HOST_DEVICE KeyRange Keys(std::int64_t batch, std::int64_t i) const {
    return Row(batch, i).keys;
  }

  // What ALiBi adds to a score, from the element of alibi_slopes.
  template <typename Real>
  THERIA_HOST_DEVICE static Real Alibi(Real slope, std::int64_t diagonal, std::int64_t j) {
    return -slope * static_cast<Real>(j < diagonal ? diagonal - j : j - diagonal);
  }

 private:
  // The last document that starts at or before query `i`, so that empty ones are passed over; -1 if
  // there is none.
  THERIA_HOST_DEVICE std::int64_t DocumentOf(std::int64_t i) const {
    std::int64_t low = 0;
    std::int64_t high = documents + 1;  // starts below `low` are at most i, those from `high` more
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if (cu_seqlens_q.At(middle, seq_q) <= i) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low - 1;
  }
};

}  // namespace theria

#endif  // THERIA_KERNELS_API_SCORE_MOD_H_
