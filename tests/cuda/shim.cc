#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "kernels/api/attention.h"
#include "kernels/api/backend.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/fused.h"
#include "kernels/cuda/registry.h"
#include "kernels/cuda/runtime/cuda_check.h"
#include "kernels/cuda/runtime/workspace.h"
#include "kernels/cuda/tuning.h"

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

// Through the backend, until the device is done. 0, or an absl::StatusCode.
std::int32_t theria_shim_run(ShimCall* call);

// Enqueues the fused implementation on a stream of the caller's and does not wait; `seconds` stays.
// 0, or an absl::StatusCode.
std::int32_t theria_shim_enqueue(ShimCall* call, cudaStream_t stream);

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

struct Request {
  AttentionInputs inputs;
  AttentionOutputs outputs;
  AttentionProblem problem;
};

absl::StatusOr<Request> Read(const ShimCall& call) {
  Request request;
  for (int index = 0; index < 10; ++index) {
    if (call.inputs[index].data != nullptr) {
      request.inputs.*kInputFields[index].member = View<const void>(call.inputs[index]);
    }
    if (call.outputs[index].data != nullptr) {
      request.outputs.*kOutputFields[index].member = View<void>(call.outputs[index]);
    }
  }
  AttentionOptions& options = request.inputs.options;
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

  absl::StatusOr<AttentionProblem> problem =
      Validate(static_cast<Operation>(call.operation), request.inputs);
  if (!problem.ok()) return problem.status();
  request.problem = *std::move(problem);
  return request;
}

CudaBackendOptions BackendOptions() {
  CudaBackendOptions options;
  if (const char* table = std::getenv("THERIA_CUDA_TUNING")) options.tuning_table = table;
  return options;
}

absl::StatusOr<ComputeReport> Run(const ShimCall& call) {
  static absl::StatusOr<std::unique_ptr<Backend>> backend = MakeCudaBackend(BackendOptions());
  if (!backend.ok()) return backend.status();
  const absl::StatusOr<Request> request = Read(call);
  if (!request.ok()) return request.status();
  return (*backend)->Run(request->problem, request->inputs, request->outputs, NoInterrupt());
}

// The kernels that the backend chooses from.
absl::StatusOr<cuda::KernelChooser> MakeKernelChooser() {
  const CudaBackendOptions options = BackendOptions();
  cudaDeviceProp properties;
  THERIA_CUDA_RETURN_IF_ERROR(cudaGetDeviceProperties(&properties, options.device));
  absl::StatusOr<cuda::Tuning> tuning = options.tuning_table.empty()
                                            ? cuda::Tuning::Default(properties.name)
                                            : cuda::Tuning::Read(options.tuning_table);
  if (!tuning.ok()) return tuning.status();
  return cuda::KernelChooser(
      {properties.major * 10 + properties.minor, properties.sharedMemPerBlockOptin},
      *std::move(tuning));
}

absl::StatusOr<std::string> Enqueue(const ShimCall& call, cudaStream_t stream) {
  static const absl::StatusOr<cuda::KernelChooser> kernels = MakeKernelChooser();
  if (!kernels.ok()) return kernels.status();
  const absl::StatusOr<Request> request = Read(call);
  if (!request.ok()) return request.status();
  const absl::Status supported =
      cuda::SupportsFused(request->problem, request->inputs.options, *kernels);
  if (!supported.ok()) return supported;
  cuda::Workspace workspace(stream);
  return cuda::EnqueueFused(request->problem, request->inputs, request->outputs, *kernels,
                            &workspace);
}

// Puts the text of what came into `call`; 0, or its absl::StatusCode.
std::int32_t Answer(const absl::Status& status, const std::string& kernel, ShimCall* call) {
  const std::string text = status.ok() ? kernel : std::string(status.message());
  std::snprintf(call->text, sizeof(call->text), "%s", text.c_str());
  return static_cast<std::int32_t>(status.code());
}

}  // namespace

std::int32_t theria_shim_run(ShimCall* call) {
  const absl::StatusOr<ComputeReport> report = Run(*call);
  if (!report.ok()) return Answer(report.status(), "", call);
  call->seconds = absl::ToDoubleSeconds(report->compute_time);
  return Answer(absl::OkStatus(), report->kernel, call);
}

std::int32_t theria_shim_enqueue(ShimCall* call, cudaStream_t stream) {
  const absl::StatusOr<std::string> kernel = Enqueue(*call, stream);
  if (!kernel.ok()) return Answer(kernel.status(), "", call);
  return Answer(absl::OkStatus(), *kernel, call);
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
