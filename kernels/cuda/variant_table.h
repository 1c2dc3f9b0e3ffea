#ifndef THERIA_KERNELS_CUDA_VARIANT_TABLE_H_
#define THERIA_KERNELS_CUDA_VARIANT_TABLE_H_

#include <vector>

#include "kernels/cuda/registry.h"

// What the generated table provides; the registry is its one reader.

namespace theria::cuda {

std::vector<KernelVariant> CompiledKernels();
std::vector<StatisticsVariant> CompiledStatistics();

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_VARIANT_TABLE_H_
