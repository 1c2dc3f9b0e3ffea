#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "kernels/api/attention.h"
#include "kernels/api/backend.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/registry.h"

// The CUDA backend behind a C interface, so that Python tests compare it with PyTorch on the device
// without a server between them. theria_shim.py is its other side. THERIA_CUDA_TUNING names the
// file of the kernels to prefer, see kernels/cuda/tuning.h.

extern "C" {

struct ShimTensor {
  void* data;  // device memory; null if the tensor is absent
  std::int32_t dtype;
  std::int32_t rank;
  std::int64_t shape[4];
  std::int64_t strides[4];
};

struct ShimCall {
  std::int32_t operation;
  std::int32_t precision;
  std::int32_t implementation;
  std::int32_t is_causal;
  std::int64_t window_left;   // negative: unbounded
  std::int64_t window_right;  // negative: unbounded
  std::int32_t has_scale;
  std::int32_t reserved;
  double scale;
  double dropout_probability;
  std::uint64_t dropout_seed;
  std::uint64_t dropout_offset;
  ShimTensor mask;
  ShimTensor inputs[10];   // in the order of kInputFields
  ShimTensor outputs[10];  // in the order of kOutputFields
  double seconds;          // set: the device's time
  char text[512];          // set: the kernels' names, or the error
};

// 0, or an absl::StatusCode.
std::int32_t theria_shim_run(ShimCall* call);

// The most bytes that the device's pool has lent at once since the last call; negative on error.
std::int64_t theria_shim_pool_peak_bytes();

// The compiled kernels, lines "group name", those of a group in the registry's order. The text
// lives as long as the library.
const char* theria_shim_kernels();
}

namespace {

using namespace theria;  // NOLINT(google-build-using-namespace): a test's own file

template <typename Void>
BasicTensorView<Void> View(const ShimTensor& tensor) {
  BasicTensorView<Void> view;
  view.data = tensor.data;
  view.dtype = static_cast<DType>(tensor.dtype);
  view.rank = tensor.rank;
  for (int axis = 0; axis < tensor.rank; ++axis) {
    view.shape[axis] = tensor.shape[axis];
    view.strides[axis] = tensor.strides[axis];
  }
  return view;
}

absl::StatusOr<ComputeReport> Run(const ShimCall& call) {
  static absl::StatusOr<std::unique_ptr<Backend>> backend = [] {
    CudaBackendOptions options;
    if (const char* table = std::getenv("THERIA_CUDA_TUNING")) options.tuning_table = table;
    return MakeCudaBackend(options);
  }();
  if (!backend.ok()) return backend.status();

  AttentionInputs inputs;
  AttentionOutputs outputs;
  for (int index = 0; index < 10; ++index) {
    if (call.inputs[index].data != nullptr) {
      inputs.*kInputFields[index].member = View<const void>(call.inputs[index]);
    }
    if (call.outputs[index].data != nullptr) {
      outputs.*kOutputFields[index].member = View<void>(call.outputs[index]);
    }
  }
  AttentionOptions& options = inputs.options;
  options.precision = static_cast<Precision>(call.precision);
  options.implementation = static_cast<Implementation>(call.implementation);
  options.is_causal = call.is_causal != 0;
  if (call.window_left >= 0 || call.window_right >= 0) {
    options.window.emplace();
    if (call.window_left >= 0) options.window->left = call.window_left;
    if (call.window_right >= 0) options.window->right = call.window_right;
  }
  if (call.has_scale != 0) options.scale = call.scale;
  if (call.mask.data != nullptr) options.mask = View<const void>(call.mask);
  options.dropout = {call.dropout_probability, call.dropout_seed, call.dropout_offset};

  const absl::StatusOr<AttentionProblem> problem =
      Validate(static_cast<Operation>(call.operation), inputs);
  if (!problem.ok()) return problem.status();
  return (*backend)->Run(*problem, inputs, outputs, NoInterrupt());
}

}  // namespace

std::int32_t theria_shim_run(ShimCall* call) {
  const absl::StatusOr<ComputeReport> report = Run(*call);
  const std::string text = report.ok() ? report->kernel : std::string(report.status().message());
  std::snprintf(call->text, sizeof(call->text), "%s", text.c_str());
  if (!report.ok()) return static_cast<std::int32_t>(report.status().code());
  call->seconds = absl::ToDoubleSeconds(report->compute_time);
  return 0;
}

std::int64_t theria_shim_pool_peak_bytes() {
  cudaMemPool_t pool = nullptr;
  std::uint64_t peak = 0;
  std::uint64_t reset = 0;
  if (cudaDeviceGetDefaultMemPool(&pool, 0) != cudaSuccess ||
      cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &peak) != cudaSuccess ||
      cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &reset) != cudaSuccess) {
    return -1;
  }
  return static_cast<std::int64_t>(peak);
}

const char* theria_shim_kernels() {
  static const std::string text = [] {
    std::string lines;
    for (const cuda::KernelVariant& variant : cuda::KernelVariants()) {
      lines += variant.group + ' ' + variant.name + '\n';
    }
    return lines;
  }();
  return text.c_str();
}
