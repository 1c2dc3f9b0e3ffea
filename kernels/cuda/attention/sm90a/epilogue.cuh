#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_EPILOGUE_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_EPILOGUE_CUH_

#include <cstdint>

#include "kernels/cuda/attention/block.cuh"

// Masks and stores of a warp's accumulators. Rows are queries or keys, 16 of them.

namespace theria::cuda::sm90a {

// -inf where a key takes no part, in a tile whose rows are queries from `row` on and whose columns
// are keys from `column` on. Rows past seq_q get any value: nothing that is written depends on
// them.
template <int kBlocks>
__device__ __forceinline__ void ForbidKeys(const AttentionParams& params, int row, int column,
                                           float (&s)[1][kBlocks][4]) {
  const int left = WindowSide(params.score_mod.window_left);
  const int right = WindowSide(params.score_mod.window_right);
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = row + half * 8 + lane / 4;
    const int begin = max(i - left, 0);
    const auto count = static_cast<unsigned>(max(min(i + right + 1, params.seq_kv) - begin, 0));
    const int first = column + lane % 4 * 2 - begin;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (static_cast<unsigned>(first + block * 8 + e) >= count) {
          s[0][block][2 * half + e] = -INFINITY;
        }
      }
    }
  }
}

// Transposes a 4 x 4 matrix of words, of which lane l of four adjacent lanes holds row l.
__device__ __forceinline__ void TransposeWords(std::uint32_t (&x)[4]) {
  const bool odd = (threadIdx.x & 1) != 0;
  const bool high = (threadIdx.x & 2) != 0;
#pragma unroll
  for (int pair = 0; pair < 4; pair += 2) {
    const std::uint32_t sent = odd ? x[pair] : x[pair + 1];
    const std::uint32_t got = __shfl_xor_sync(0xffffffffu, sent, 1);
    (odd ? x[pair] : x[pair + 1]) = got;
  }
#pragma unroll
  for (int at = 0; at < 2; ++at) {
    const std::uint32_t sent = high ? x[at] : x[at + 2];
    const std::uint32_t got = __shfl_xor_sync(0xffffffffu, sent, 2);
    (high ? x[at] : x[at + 2]) = got;
  }
}

// As StoreRows of block.cuh with one row tile, 16 bytes a lane. All lanes call it.
template <typename Mma, int kBlocks, typename Factor>
__device__ __forceinline__ void StoreWideRows(const OutputRows& rows, int batch, int head, int row,
                                              int row_end, int columns,
                                              const float (&c)[1][kBlocks][4],
                                              const Factor& factor) {
  using Element = typename Mma::Element;
  static_assert(kBlocks % 4 == 0 && sizeof(Element) == 2);
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = row + half * 8 + lane / 4;
    auto* destination = RowPointer<Element>(rows, batch, head, at);
    const float scale = factor(0, half);
#pragma unroll
    for (int block = 0; block < kBlocks; block += 4) {
      std::uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        Mma::Store2(reinterpret_cast<Element*>(&words[i]), c[0][block + i][2 * half] * scale,
                    c[0][block + i][2 * half + 1] * scale);
      }
      TransposeWords(words);
      const int to = (block + lane % 4) * 8;
      if (at < row_end && to < columns) {
        *reinterpret_cast<uint4*>(destination + to) =
            make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_EPILOGUE_CUH_
