#include "kernels/cuda/unfused/stream_handles.h"

#include <utility>

#include "kernels/cuda/unfused/cublas.h"

namespace theria::cuda {

StreamHandles::~StreamHandles() {
  for (const auto& [stream, handle] : handles_) Cublas::Get().destroy(handle);
}

absl::StatusOr<StreamHandles::Locked> StreamHandles::Lock(cudaStream_t stream) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto found = handles_.find(stream);
  if (found != handles_.end()) return Locked{std::move(lock), found->second};
  const absl::StatusOr<const Cublas*> cublas = Cublas::Load();
  if (!cublas.ok()) return cublas.status();
  cublasHandle_t handle = nullptr;
  const absl::Status status = CublasStatus((*cublas)->create(&handle), "cublasCreate");
  if (!status.ok()) return status;
  handles_.emplace(stream, handle);
  return Locked{std::move(lock), handle};
}

}  // namespace theria::cuda
