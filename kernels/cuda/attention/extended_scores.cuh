#ifndef THERIA_KERNELS_CUDA_ATTENTION_EXTENDED_SCORES_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_EXTENDED_SCORES_CUH_

#include "kernels/cuda/attention/score_tile.cuh"

// Scores of extended kernels, in natural units (docs/operator_contract.md):
//   U = scale q k^T,  t = tanh(U / c),  S = c t + B,  B = mask - slope |diagonal - j|
// and, w = 1 - t^2 being the slope of the cap,
//   S_dot = w U_dot + bias_dot,  U_bar = w S_bar,  U_bar_dot = w S_bar_dot + w_dot S_bar
// with w_dot = -(2 / c) t w U_dot. Which of the options a call has is found when it runs.

namespace theria::cuda {

// KeysOfQueries and QueriesOfKeys of score_tile.cuh, and where the ranges vary by row, from those
// of the first and the last: the bounds of valid ranges never decrease.
template <typename Tiling>
__device__ __forceinline__ KeySpan KeysOfTile(const AttentionParams& params, int batch, int first,
                                              int last) {
  if constexpr (Tiling::kExtended) {
    const RowKeys* rows = params.row_keys + std::int64_t{batch} * params.seq_q;
    return {rows[first].begin, rows[last].end, rows[last].begin, rows[first].end};
  } else {
    return KeysOfQueries(params, first, last);
  }
}
template <typename Tiling>
__device__ __forceinline__ KeySpan QueriesOfTile(const AttentionParams& params, int batch,
                                                 int first, int last) {
  if constexpr (Tiling::kExtended) {
    const KeyQueries* keys = params.key_queries + std::int64_t{batch} * params.seq_kv;
    return {keys[first].begin, keys[last].end, keys[last].begin, keys[first].end};
  } else {
    return QueriesOfKeys(params, first, last);
  }
}

// The arithmetic of one head's scores.
template <typename Real>
class ExtendedScores {
 public:
  __device__ __forceinline__ ExtendedScores(const AttentionParams& params, int batch, int head)
      : params_(params),
        rows_(params.row_keys + std::int64_t{batch} * params.seq_q),
        mask_plane_(batch * params.score_mod.mask_strides[0] +
                    head * params.score_mod.mask_strides[1]),
        bias_dot_plane_(batch * params.bias_dot_strides[0] + head * params.bias_dot_strides[1]),
        scale_(static_cast<Real>(params.scale)),
        slope_(Slope(params.score_mod, batch, head)) {}

  // The keys of query i; none past seq_q.
  __device__ __forceinline__ RowKeys KeysOf(int i) const {
    return i < params_.seq_q ? rows_[i] : RowKeys{0, 0, 0, 0};
  }

  // The score of a pair within the key range of its query from the product q k^T, -inf where the
  // mask forbids it; and t, 0 without a cap. Rounded alike in every kernel, as exponent.cuh asks.
  __device__ __forceinline__ Real Score(Real product, int i, int j, int diagonal, Real* t) const {
    const ScoreMod& mod = params_.score_mod;
    *t = Real(0);
    Real bias = Real(0);
    if (mod.mask != nullptr) {
      bias = MaskValue<Real>(mod, mask_plane_ + i * mod.mask_strides[2] + j * mod.mask_strides[3]);
      if (bias == -static_cast<Real>(INFINITY)) return bias;
    }
    if (slope_ != Real(0)) bias = FusedProduct(mod.Alibi(slope_, diagonal, j), Real(1), bias);
    if (!mod.softcap.enabled()) return FusedProduct(product, scale_, bias);
    *t = mod.softcap.Tanh(RoundedProduct(product, scale_));
    return FusedProduct(static_cast<Real>(mod.softcap.cap), *t, bias);
  }

  // S_dot from the product q_dot k^T + q k_dot^T, and w_dot.
  __device__ __forceinline__ Real Tangent(Real product, int i, int j, Real t, Real* w_dot) const {
    const SoftcapMod& softcap = params_.score_mod.softcap;
    Real s_dot = product * scale_;
    *w_dot = Real(0);
    if (softcap.enabled()) {
      s_dot *= softcap.Slope(t);
      *w_dot = -softcap.Bend(t, s_dot);
    }
    if (params_.bias_dot != nullptr) {
      s_dot += OptionValue<Real>(
          params_.bias_dot, params_.score_mod.mask_dtype,
          bias_dot_plane_ + i * params_.bias_dot_strides[2] + j * params_.bias_dot_strides[3]);
    }
    return s_dot;
  }

 private:
  __device__ __forceinline__ static Real Slope(const ScoreMod& mod, int batch, int head) {
    if (mod.alibi_slopes == nullptr) return Real(0);
    return OptionValue<Real>(mod.alibi_slopes, mod.alibi_dtype,
                             batch * mod.alibi_strides[0] + head * mod.alibi_strides[1]);
  }

  const AttentionParams& params_;
  const RowKeys* rows_;
  std::int64_t mask_plane_, bias_dot_plane_;
  Real scale_, slope_;
};

// What a tile of scores leaves for its derivatives; empty where kernels are not extended.
template <typename Tiling, int kRowTiles, int kBlocks>
struct CapTile {
  static constexpr int kTiles = Tiling::kExtended ? kRowTiles : 1;
  static constexpr int kColumns = Tiling::kExtended ? kBlocks : 1;
  typename Tiling::Accumulator t[kTiles][kColumns][4];
  typename Tiling::Accumulator w_dot[kTiles][kColumns][4];
};

// ModifyScores of score_tile.cuh for every kind of kernel.
template <typename Tiling, bool kKeyRows, typename Accumulator, int kRowTiles, int kBlocks>
__device__ __forceinline__ void MakeScores(const AttentionParams& params,
                                           const TilePosition& position, bool whole,
                                           Accumulator (&s)[kRowTiles][kBlocks][4],
                                           CapTile<Tiling, kRowTiles, kBlocks>& cap) {
  if constexpr (!Tiling::kExtended) {
    ModifyScores<Tiling::kGeneral, kKeyRows>(params, position, whole, s);
  } else {
    const ExtendedScores<Accumulator> scores(params, position.batch, position.head);
    ForEachIndex<kRowTiles, kBlocks>(
        position, [&](int tile, int block, int e, int row, int column) {
          const int i = kKeyRows ? column : row;
          const int j = kKeyRows ? row : column;
          const RowKeys keys = scores.KeysOf(i);
          if (!whole && (j < keys.begin || j >= keys.end)) {
            s[tile][block][e] = -static_cast<Accumulator>(INFINITY);
            cap.t[tile][block][e] = Accumulator(0);
            return;
          }
          s[tile][block][e] =
              scores.Score(s[tile][block][e], i, j, keys.diagonal, &cap.t[tile][block][e]);
        });
  }
}

// Products that are tangents of U become tangents of S in extended kernels, 0 beside scores of
// -inf. Others keep them as they are, and the scale apart: TangentScale.
template <typename Tiling, bool kKeyRows, typename Accumulator, int kRowTiles, int kBlocks>
__device__ __forceinline__ void MakeTangents(const AttentionParams& params,
                                             const TilePosition& position,
                                             const Accumulator (&s)[kRowTiles][kBlocks][4],
                                             Accumulator (&s_dot)[kRowTiles][kBlocks][4],
                                             CapTile<Tiling, kRowTiles, kBlocks>& cap) {
  if constexpr (Tiling::kExtended) {
    const ExtendedScores<Accumulator> scores(params, position.batch, position.head);
    ForEachIndex<kRowTiles, kBlocks>(
        position, [&](int tile, int block, int e, int row, int column) {
          const bool visible = s[tile][block][e] != -static_cast<Accumulator>(INFINITY);
          cap.w_dot[tile][block][e] = Accumulator(0);
          if (!visible) {
            s_dot[tile][block][e] = Accumulator(0);
            return;
          }
          s_dot[tile][block][e] = scores.Tangent(s_dot[tile][block][e], kKeyRows ? column : row,
                                                 kKeyRows ? row : column, cap.t[tile][block][e],
                                                 &cap.w_dot[tile][block][e]);
        });
  }
}
template <typename Tiling>
__device__ __forceinline__ typename Tiling::Accumulator TangentScale(
    typename Tiling::Accumulator scale) {
  return Tiling::kExtended ? typename Tiling::Accumulator(1) : scale;
}

// From cotangents of S to those of U.
template <typename Tiling, typename Accumulator, int kRowTiles, int kBlocks>
__device__ __forceinline__ void PullThroughCap(const CapTile<Tiling, kRowTiles, kBlocks>& cap,
                                               Accumulator (&s_bar)[kRowTiles][kBlocks][4]) {
  if constexpr (Tiling::kExtended) {
    ForEachElement<kRowTiles, kBlocks>([&](int tile, int block, int e) {
      s_bar[tile][block][e] *= SoftcapMod().Slope(cap.t[tile][block][e]);
    });
  }
}
template <typename Tiling, typename Accumulator, int kRowTiles, int kBlocks>
__device__ __forceinline__ void PullThroughCap(const CapTile<Tiling, kRowTiles, kBlocks>& cap,
                                               Accumulator (&s_bar)[kRowTiles][kBlocks][4],
                                               Accumulator (&s_bar_dot)[kRowTiles][kBlocks][4]) {
  if constexpr (Tiling::kExtended) {
    ForEachElement<kRowTiles, kBlocks>([&](int tile, int block, int e) {
      const Accumulator slope = SoftcapMod().Slope(cap.t[tile][block][e]);
      s_bar_dot[tile][block][e] =
          slope * s_bar_dot[tile][block][e] + cap.w_dot[tile][block][e] * s_bar[tile][block][e];
      s_bar[tile][block][e] *= slope;
    });
  }
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_EXTENDED_SCORES_CUH_
