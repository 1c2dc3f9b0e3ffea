#include "kernels/cuda/backend.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/api/message.h"
#include "kernels/cuda/fused.h"
#include "kernels/cuda/registry.h"
#include "kernels/cuda/runtime/cuda_check.h"
#include "kernels/cuda/runtime/device_guard.h"
#include "kernels/cuda/runtime/device_memory.h"
#include "kernels/cuda/runtime/stream.h"
#include "kernels/cuda/runtime/workspace.h"
#include "kernels/cuda/tuning.h"
#include "kernels/cuda/unfused/cublas.h"
#include "kernels/cuda/unfused/stream_handles.h"
#include "kernels/cuda/unfused/unfused.h"

namespace theria {
namespace {

DType DTypeOf(cuda::Arithmetic arithmetic) {
  switch (arithmetic) {
    case cuda::Arithmetic::kFloat16:
      return DType::kFloat16;
    case cuda::Arithmetic::kBFloat16:
      return DType::kBFloat16;
    case cuda::Arithmetic::kTf32:
    case cuda::Arithmetic::kFloat32:
      return DType::kFloat32;
    case cuda::Arithmetic::kFloat64:
      return DType::kFloat64;
  }
  return DType::kFloat32;
}

class CudaBackend final : public StreamBackend {
 public:
  CudaBackend(int device, const cudaDeviceProp& properties, cuda::Tuning tuning,
              std::unique_ptr<cuda::DeviceMemory> memory)
      : device_(device),
        properties_(properties),
        kernels_({properties.major * 10 + properties.minor, properties.sharedMemPerBlockOptin},
                 std::move(tuning)),
        memory_(std::move(memory)) {}

  std::string_view name() const override { return "cuda"; }

  std::vector<DeviceInfo> Devices() const override;

  std::vector<KernelSupport> Kernels() const override;

  Memory& memory() override { return *memory_; }
  Memory& spill_memory() override { return pinned_memory_; }
  absl::Status health() const override { return cuda::ContextFault(); }

  absl::Status Supports(const AttentionProblem& problem,
                        const AttentionOptions& options) const override {
    return Choose(problem, options).status();
  }

  absl::StatusOr<ComputeReport> Run(const AttentionProblem& problem, const AttentionInputs& inputs,
                                    const AttentionOutputs& outputs,
                                    const Interrupt& interrupt) override;

  // Each on a stream of its own, so that what is too small to fill the device fills it together.
  void RunTogether(const AttentionProblem& problem, absl::Span<Computation> computations) override;

  absl::StatusOr<EnqueueReport> Enqueue(const AttentionProblem& problem,
                                        const AttentionInputs& inputs,
                                        const AttentionOutputs& outputs, void* stream,
                                        const CallerWorkspace& caller) override;
  absl::Status Synchronize(void* stream) override;

 private:
  // A computation that is enqueued, with what must outlive it.
  struct InFlight {
    Implementation implementation;
    cuda::StreamPool::Borrowed stream;
    cuda::CublasPool::Borrowed cublas;
    std::unique_ptr<cuda::Workspace> workspace;
    absl::StatusOr<std::string> kernel;  // or why only a part of it was enqueued
  };

  // Whatever it returns OK must be given to Finish. Errors: as Run.
  absl::StatusOr<InFlight> Launch(const AttentionProblem& problem, const AttentionInputs& inputs,
                                  const AttentionOutputs& outputs, const Interrupt& interrupt);
  // Waits for the end: what was enqueued must be over before its buffers, or the caller's, are
  // reused.
  absl::StatusOr<ComputeReport> Finish(InFlight computation) const;

  // Who computes: never kAuto.
  absl::StatusOr<Implementation> Choose(const AttentionProblem& problem,
                                        const AttentionOptions& options) const;

  int device_;
  cudaDeviceProp properties_;
  cuda::KernelChooser kernels_;
  std::unique_ptr<cuda::DeviceMemory> memory_;
  cuda::PinnedMemory pinned_memory_;
  cuda::StreamPool streams_;
  cuda::CublasPool cublas_;
  cuda::StreamHandles stream_handles_;
};

DeviceInfo Describe(int device, const cudaDeviceProp& properties) {
  return {Message("cuda:", device), properties.name, properties.totalGlobalMem,
          Message("sm_", properties.major, properties.minor)};
}

std::vector<DeviceInfo> CudaBackend::Devices() const {
  std::vector<DeviceInfo> devices = {Describe(device_, properties_)};
  for (int device = 0; device < CudaDeviceCount(); ++device) {
    cudaDeviceProp properties;
    if (device != device_ && cudaGetDeviceProperties(&properties, device) == cudaSuccess) {
      devices.push_back(Describe(device, properties));
    }
  }
  return devices;
}

absl::StatusOr<Implementation> CudaBackend::Choose(const AttentionProblem& problem,
                                                   const AttentionOptions& options) const {
  absl::Status status;
  switch (options.implementation) {
    case Implementation::kAuto:
      status = cuda::SupportsFused(problem, options, kernels_);
      if (status.ok()) return Implementation::kFused;
      if (cuda::SupportsUnfused(problem).ok()) return Implementation::kUnfused;
      return status;
    case Implementation::kFused:
      status = cuda::SupportsFused(problem, options, kernels_);
      if (!status.ok()) return status;
      return Implementation::kFused;
    case Implementation::kUnfused:
      status = cuda::SupportsUnfused(problem);
      if (!status.ok()) return status;
      return Implementation::kUnfused;
    case Implementation::kReference:
      break;
  }
  return absl::UnimplementedError(
      Message("the CUDA backend supports the implementations auto, fused and unfused, not ",
              ImplementationName(options.implementation)));
}

std::vector<KernelSupport> CudaBackend::Kernels() const {
  // What limits an operation is the kernel of it that serves the fewest head dimensions.
  std::map<std::tuple<Operation, DType>, std::map<cuda::KernelKind, std::int64_t>> largest;
  for (const cuda::KernelVariant& variant : cuda::KernelVariants()) {
    if (!cuda::CanRun(kernels_.device(), variant)) continue;
    const auto add = [&](Operation operation) {
      std::int64_t& dim = largest[{operation, DTypeOf(variant.key.arithmetic)}][variant.key.kind];
      dim = std::max<std::int64_t>(dim, variant.key.dim);
    };
    switch (variant.key.kind) {
      case cuda::KernelKind::kForward:
        add(Operation::kForward);
        break;
      case cuda::KernelKind::kJvp:
        add(Operation::kJvp);
        break;
      case cuda::KernelKind::kVjpQueries:
      case cuda::KernelKind::kVjpKeys:
        add(Operation::kVjp);
        break;
      case cuda::KernelKind::kVjp:  // what it does not serve, the two kernels above do
        break;
      case cuda::KernelKind::kHvpQueries:
      case cuda::KernelKind::kHvpKeys:
        add(Operation::kHvp);
        break;
    }
  }
  std::vector<KernelSupport> support;
  const bool has_unfused = cuda::Cublas::Load().ok();
  for (const auto& [key, dims] : largest) {
    std::int64_t max_head_dim = dims.begin()->second;
    for (const auto& [kind, dim] : dims) max_head_dim = std::min(max_head_dim, dim);
    support.push_back(
        {std::get<0>(key), Implementation::kFused, std::get<1>(key), 1, max_head_dim, 1});
    if (!has_unfused) continue;
    support.push_back(
        {std::get<0>(key), Implementation::kUnfused, std::get<1>(key), 1, kMaxHeadDim, 1});
  }
  return support;
}

absl::StatusOr<ComputeReport> CudaBackend::Run(const AttentionProblem& problem,
                                               const AttentionInputs& inputs,
                                               const AttentionOutputs& outputs,
                                               const Interrupt& interrupt) {
  absl::StatusOr<InFlight> computation = Launch(problem, inputs, outputs, interrupt);
  if (!computation.ok()) return computation.status();
  return Finish(*std::move(computation));
}

void CudaBackend::RunTogether(const AttentionProblem& problem,
                              absl::Span<Computation> computations) {
  std::vector<absl::StatusOr<InFlight>> in_flight;
  in_flight.reserve(computations.size());
  for (const Computation& one : computations) {
    in_flight.push_back(Launch(problem, *one.inputs, *one.outputs, *one.interrupt));
  }
  for (std::size_t i = 0; i < computations.size(); ++i) {
    if (in_flight[i].ok()) {
      computations[i].report = Finish(*std::move(in_flight[i]));
    } else {
      computations[i].report = in_flight[i].status();
    }
  }
}

absl::StatusOr<CudaBackend::InFlight> CudaBackend::Launch(const AttentionProblem& problem,
                                                          const AttentionInputs& inputs,
                                                          const AttentionOutputs& outputs,
                                                          const Interrupt& interrupt) {
  const absl::StatusOr<Implementation> implementation = Choose(problem, inputs.options);
  if (!implementation.ok()) return implementation.status();
  absl::Status status = interrupt.Check();
  if (!status.ok()) return status;
  const cuda::DeviceGuard guard(device_);
  THERIA_CUDA_RETURN_IF_ERROR(guard.error());
  absl::StatusOr<cuda::StreamPool::Borrowed> stream = streams_.Borrow();
  if (!stream.ok()) return stream.status();
  cuda::CublasPool::Borrowed cublas(nullptr, cuda::CublasPool::Return(&cublas_));
  if (*implementation == Implementation::kUnfused) {
    absl::StatusOr<cuda::CublasPool::Borrowed> borrowed = cublas_.Borrow();
    if (!borrowed.ok()) return borrowed.status();
    cublas = *std::move(borrowed);
  }
  auto workspace = std::make_unique<cuda::Workspace>((*stream)->get());
  status = (*stream)->BeginTiming();
  if (!status.ok()) return status;
  absl::StatusOr<std::string> kernel =
      *implementation == Implementation::kFused
          ? cuda::EnqueueFused(problem, inputs, outputs, kernels_, workspace.get())
          : cuda::EnqueueUnfused(problem, inputs, outputs, cublas.get(), workspace.get());
  return InFlight{*implementation, *std::move(stream), std::move(cublas), std::move(workspace),
                  std::move(kernel)};
}

absl::StatusOr<EnqueueReport> CudaBackend::Enqueue(const AttentionProblem& problem,
                                                   const AttentionInputs& inputs,
                                                   const AttentionOutputs& outputs, void* stream,
                                                   const CallerWorkspace& caller) {
  const absl::StatusOr<Implementation> implementation = Choose(problem, inputs.options);
  if (!implementation.ok()) return implementation.status();
  const cuda::DeviceGuard guard(device_);
  THERIA_CUDA_RETURN_IF_ERROR(guard.error());
  cuda::Workspace workspace(static_cast<cudaStream_t>(stream), caller);
  absl::StatusOr<std::string> kernel;
  if (*implementation == Implementation::kFused) {
    kernel = cuda::EnqueueFused(problem, inputs, outputs, kernels_, &workspace);
  } else {
    absl::StatusOr<cuda::StreamHandles::Locked> cublas =
        stream_handles_.Lock(static_cast<cudaStream_t>(stream));
    if (!cublas.ok()) return cublas.status();
    kernel = cuda::EnqueueUnfused(problem, inputs, outputs, cublas->handle, &workspace);
  }
  if (!kernel.ok()) return kernel.status();
  return EnqueueReport{*implementation, *std::move(kernel), workspace.size_bytes()};
}

absl::Status CudaBackend::Synchronize(void* stream) {
  const cuda::DeviceGuard guard(device_);
  THERIA_CUDA_RETURN_IF_ERROR(guard.error());
  THERIA_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
  return absl::OkStatus();
}

absl::StatusOr<ComputeReport> CudaBackend::Finish(InFlight computation) const {
  const absl::StatusOr<absl::Duration> compute_time = computation.stream->Finish();
  if (!computation.kernel.ok()) return computation.kernel.status();
  if (!compute_time.ok()) return compute_time.status();
  return ComputeReport{computation.implementation, *std::move(computation.kernel),
                       Message("cuda:", device_), *compute_time};
}

// CUDA's own text where there is no driver speaks of one that is too old.
std::string WhyNoDevice(cudaError_t error) {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) {
    return "no NVIDIA driver is installed, or this container was started without GPUs";
  }
  return Message(cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
}

}  // namespace

int CudaDeviceCount() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string CudaKernelNames() {
  std::string lines;
  for (const cuda::KernelVariant& variant : cuda::KernelVariants()) {
    lines += variant.group + ' ' + variant.name + '\n';
  }
  return lines;
}

absl::StatusOr<std::unique_ptr<StreamBackend>> MakeCudaBackend(const CudaBackendOptions& options) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    return absl::UnavailableError(Message("there is no CUDA device: ", WhyNoDevice(error)));
  }
  if (options.device < 0 || options.device >= count) {
    return absl::UnavailableError(
        Message("there is no CUDA device ", options.device, ", this process sees ", count));
  }
  cudaDeviceProp properties;
  THERIA_CUDA_RETURN_IF_ERROR(cudaGetDeviceProperties(&properties, options.device));
  absl::StatusOr<cuda::Tuning> tuning = options.tuning_table.empty()
                                            ? cuda::Tuning::Default(properties.name)
                                            : cuda::Tuning::Read(options.tuning_table);
  if (!tuning.ok()) return tuning.status();
  absl::StatusOr<std::unique_ptr<cuda::DeviceMemory>> memory =
      cuda::DeviceMemory::Create(options.device);
  if (!memory.ok()) return memory.status();
  return std::make_unique<CudaBackend>(options.device, properties, *std::move(tuning),
                                       *std::move(memory));
}

}  // namespace theria
