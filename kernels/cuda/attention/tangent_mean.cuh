#ifndef THERIA_KERNELS_CUDA_ATTENTION_TANGENT_MEAN_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_TANGENT_MEAN_CUH_

#include "kernels/cuda/attention/block.cuh"

// The mean of S_dot over a row's probabilities, mu, and sums of P (S_dot - centre) that lose
// nothing where S_dot is large.
//
// o_dot = sum P S_dot v - mu o cancels: with scores of 1e4, S_dot is near mu times 1e2 larger than
// what is left, and P S_dot is rounded to the dtype before its product. Any constant may be
// subtracted from S_dot beforehand. The centre is 0 until a tile of large scores raises the
// maximum, and from then on the running mean as of the last such tile; a row with a single key that
// counts has P (S_dot - centre) = 0 exactly.

namespace theria::cuda {

template <typename Accumulator, int kRowTiles>
class TangentMean {
 public:
  // Renews the centres before a tile is added: `p` are its exponentials, `s_dot` its unscaled
  // tangents, before(tile, half) the lane's part of the row's sum without this tile. `o`, `o_dot`
  // and that sum are rescaled to the present maximum, as this mean is.
  //
  // The sum without the tile must not be formed as a difference: the error of 1 - 1 times a large
  // S_dot would enter the mean but not o_dot.
  template <int kBlocks, int kOutputs, typename Before>
  __device__ __forceinline__ void Recentre(const Accumulator (&p)[kRowTiles][kBlocks][4],
                                           const Accumulator (&s_dot)[kRowTiles][kBlocks][4],
                                           Accumulator scale, const Before& before,
                                           const Accumulator (&o)[kRowTiles][kOutputs][4],
                                           Accumulator (&o_dot)[kRowTiles][kOutputs][4]) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Accumulator of_tile = 0, weighted = 0;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            of_tile += p[tile][block][e];
            weighted += p[tile][block][e] * (s_dot[tile][block][e] * scale);
          }
        }
        const Accumulator earlier = before(tile, half);
        Accumulator& centre = centre_[tile][half];
        const Accumulator total = RowSum(earlier + of_tile);
        const Accumulator mean =
            RowSum(deviation_[tile][half] + centre * earlier + weighted) / total;
        const Accumulator shift = total == Accumulator(0) ? Accumulator(0) : centre - mean;
        if (total != Accumulator(0)) centre = mean;
        deviation_[tile][half] += shift * earlier;
#pragma unroll
        for (int block = 0; block < kOutputs; ++block) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            o_dot[tile][block][e] += shift * o[tile][block][e];
          }
        }
      }
    }
  }

  // The running maximum grew: what was summed before shrinks by `factor`.
  __device__ __forceinline__ void Rescale(int tile, int half, Accumulator factor) {
    deviation_[tile][half] *= factor;
  }

  // Turns unscaled tangents of scores into P (S_dot - centre), and adds them.
  template <int kBlocks>
  __device__ __forceinline__ void Add(const Accumulator (&p)[kRowTiles][kBlocks][4],
                                      Accumulator scale,
                                      Accumulator (&s_dot)[kRowTiles][kBlocks][4]) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          s_dot[tile][block][e] =
              p[tile][block][e] * (s_dot[tile][block][e] * scale - centre_[tile][e / 2]);
          deviation_[tile][e / 2] += s_dot[tile][block][e];
        }
      }
    }
  }

  // After the last tile: the mean less the centre, which is what o_dot still has to lose times o.
  __device__ __forceinline__ Accumulator Deviation(int tile, int half,
                                                   Accumulator inverse_sum) const {
    return RowSum(deviation_[tile][half]) * inverse_sum;
  }
  __device__ __forceinline__ Accumulator Centre(int tile, int half) const {
    return centre_[tile][half];
  }

 private:
  Accumulator centre_[kRowTiles][2] = {};
  Accumulator deviation_[kRowTiles][2] = {};  // the lane's part of sum P (S_dot - centre)
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_TANGENT_MEAN_CUH_
