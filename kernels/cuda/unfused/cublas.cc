#include "kernels/cuda/unfused/cublas.h"

#include "kernels/api/message.h"

namespace theria::cuda {

absl::Status CublasStatus(cublasStatus_t status, std::string_view step) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const std::string message = Message(step, ": ", cublasGetStatusString(status));
  if (status == CUBLAS_STATUS_ALLOC_FAILED) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

CublasPool::~CublasPool() {
  for (cublasHandle_t handle : idle_) cublasDestroy(handle);
}

absl::StatusOr<CublasPool::Borrowed> CublasPool::Borrow() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      cublasHandle_t handle = idle_.back();
      idle_.pop_back();
      return Borrowed(handle, Return(this));
    }
  }
  cublasHandle_t handle = nullptr;
  const absl::Status status = CublasStatus(cublasCreate(&handle), "cublasCreate");
  if (!status.ok()) return status;
  return Borrowed(handle, Return(this));
}

void CublasPool::Put(cublasHandle_t handle) {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(handle);
}

}  // namespace theria::cuda
