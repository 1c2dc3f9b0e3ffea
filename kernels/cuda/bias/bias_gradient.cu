#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cuda/attention/mma_of.cuh"
#include "kernels/cuda/bias/bias_gradient.h"
#include "kernels/cuda/bias/bias_kernel.cuh"

namespace theria::cuda {
namespace {

// Blocks that keep a large GPU busy: four for each multiprocessor.
constexpr std::int64_t kEnoughBlocks = 4 * 132;

// Of one arithmetic, with or without bias_bar_dot.
template <typename Mma, bool kTangents>
class BiasRun {
 public:
  BiasRun(const AttentionParams& params, const BiasGradients& gradients)
      : launch_{params, gradients, 1, nullptr} {
    const std::int32_t(&extents)[4] = gradients.extents;
    const BiasTiles tiles = TilesOf<Tiling>(gradients);
    blocks_ = std::int64_t{extents[0]} * extents[1] * tiles.rows * std::int64_t{tiles.columns};
    const std::int64_t shared = SharedTilesOf<Tiling>(params, gradients).count();
    // Of one batch: a call that was joined with others sums in the order of a call by itself.
    launch_.splits = static_cast<std::int32_t>(
        std::clamp<std::int64_t>(kEnoughBlocks / (blocks_ / extents[0]), 1, shared));
    results_ = std::int64_t{extents[0]} * extents[1] * extents[2] * std::int64_t{extents[3]} *
               gradients.outputs();
  }

  std::size_t PartsBytes() const {
    return launch_.splits == 1
               ? 0
               : static_cast<std::size_t>(launch_.splits * results_) * sizeof(Accumulator);
  }

  cudaError_t Launch(void* parts, cudaStream_t stream) {
    const std::int64_t blocks = blocks_ * launch_.splits;
    if (blocks > std::numeric_limits<std::int32_t>::max()) return cudaErrorInvalidConfiguration;
    if (launch_.splits > 1) launch_.parts = parts;
    BiasGradientKernel<Mma, kTangents>
        <<<static_cast<unsigned>(blocks), Tiling::kThreads, 0, stream>>>(launch_);
    if (launch_.splits > 1) {
      const auto adding = static_cast<unsigned>((results_ + kAddThreads - 1) / kAddThreads);
      AddBiasPartsKernel<Accumulator><<<adding, kAddThreads, 0, stream>>>(launch_);
    }
    return cudaGetLastError();
  }

 private:
  using Tiling = BiasTiling<Mma, kTangents>;
  using Accumulator = typename Mma::Accumulator;

  BiasLaunch launch_;
  std::int64_t blocks_;   // without splits
  std::int64_t results_;  // elements of all outputs
};

// Calls visit with the BiasRun that serves the problem.
template <typename Visit>
auto WithRun(Arithmetic arithmetic, const AttentionParams& params, const BiasGradients& gradients,
             const Visit& visit) {
  const auto of = [&]<Arithmetic kArithmetic>() {
    using Mma = typename MmaOf<kArithmetic>::Type;
    return gradients.bias_bar_dot != nullptr ? visit(BiasRun<Mma, true>(params, gradients))
                                             : visit(BiasRun<Mma, false>(params, gradients));
  };
  switch (arithmetic) {
    case Arithmetic::kFloat16:
      return of.template operator()<Arithmetic::kFloat16>();
    case Arithmetic::kBFloat16:
      return of.template operator()<Arithmetic::kBFloat16>();
    case Arithmetic::kTf32:
      return of.template operator()<Arithmetic::kTf32>();
    case Arithmetic::kFloat32:
      return of.template operator()<Arithmetic::kFloat32>();
    default:
      return of.template operator()<Arithmetic::kFloat64>();
  }
}

}  // namespace

BiasGradients MakeBiasGradients(const MutableTensorView* bias_bar,
                                const MutableTensorView* bias_bar_dot) {
  BiasGradients gradients = {};
  const auto set = [&](const MutableTensorView* view, void** data, std::int64_t(&strides)[4]) {
    if (view == nullptr) return;
    *data = view->data;
    gradients.dtype = view->dtype;
    const int lead = 4 - view->rank;
    for (int axis = 0; axis < 4; ++axis) {
      gradients.extents[axis] =
          axis < lead ? 1 : static_cast<std::int32_t>(view->shape[axis - lead]);
      strides[axis] = axis < lead ? 0 : view->strides[axis - lead];
    }
  };
  set(bias_bar, &gradients.bias_bar, gradients.bias_bar_strides);
  set(bias_bar_dot, &gradients.bias_bar_dot, gradients.bias_bar_dot_strides);
  return gradients;
}

std::size_t BiasPartsBytes(Arithmetic arithmetic, const AttentionParams& params,
                           const BiasGradients& gradients) {
  return WithRun(arithmetic, params, gradients, [](auto run) { return run.PartsBytes(); });
}

cudaError_t LaunchBiasGradients(Arithmetic arithmetic, const AttentionParams& params,
                                const BiasGradients& gradients, void* parts, cudaStream_t stream) {
  return WithRun(arithmetic, params, gradients,
                 [&](auto run) { return run.Launch(parts, stream); });
}

}  // namespace theria::cuda
