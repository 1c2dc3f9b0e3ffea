#ifndef THERIA_KERNELS_CUDA_ATTENTION_TANGENTS_H_
#define THERIA_KERNELS_CUDA_ATTENTION_TANGENTS_H_

#include <cstdint>

namespace theria::cuda {

// Which tangents a JVP or HVP kernel is compiled for. A product with an absent tangent is never
// computed.
enum class TangentSet : std::uint8_t {
  kAll,
  kInputs,  // HVP without o_bar_dot: the double backward
  kSome,    // any, found when it runs
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_TANGENTS_H_
