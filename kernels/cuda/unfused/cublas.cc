#include "kernels/cuda/unfused/cublas.h"

#include <dlfcn.h>

#include <string>

#include "kernels/api/message.h"

namespace theria::cuda {
namespace {

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// Never closed: threads may still hold its thread-local storage.
absl::StatusOr<Cublas> Open() {
  const std::string name = Message("libcublas.so.", CUBLAS_VER_MAJOR);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  const char* const error = library == nullptr ? dlerror() : nullptr;
  const std::string why = error == nullptr ? "" : error;
  if (library == nullptr) library = dlopen(THERIA_CUBLAS_PATH, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::UnimplementedError(
        Message("the unfused implementation needs cuBLAS, which is not installed: ", why));
  }
  Cublas cublas = {};
  if (!Find(library, "cublasCreate_v2", &cublas.create) ||
      !Find(library, "cublasDestroy_v2", &cublas.destroy) ||
      !Find(library, "cublasSetStream_v2", &cublas.set_stream) ||
      !Find(library, "cublasGemmStridedBatchedEx", &cublas.gemm_strided_batched) ||
      !Find(library, "cublasGetStatusString", &cublas.status_string)) {
    return absl::UnimplementedError(
        Message("the unfused implementation: ", name, " lacks a function"));
  }
  return cublas;
}

const absl::StatusOr<Cublas>& Opened() {
  static const absl::StatusOr<Cublas>& opened = *new absl::StatusOr<Cublas>(Open());
  return opened;
}

}  // namespace

absl::StatusOr<const Cublas*> Cublas::Load() {
  if (!Opened().ok()) return Opened().status();
  return &*Opened();
}

const Cublas& Cublas::Get() { return *Opened(); }

absl::Status CublasStatus(cublasStatus_t status, std::string_view step) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const std::string message = Message(step, ": ", Cublas::Get().status_string(status));
  if (status == CUBLAS_STATUS_ALLOC_FAILED) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

CublasPool::~CublasPool() {
  for (cublasHandle_t handle : idle_) Cublas::Get().destroy(handle);
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
  const absl::StatusOr<const Cublas*> cublas = Cublas::Load();
  if (!cublas.ok()) return cublas.status();
  cublasHandle_t handle = nullptr;
  const absl::Status status = CublasStatus((*cublas)->create(&handle), "cublasCreate");
  if (!status.ok()) return status;
  return Borrowed(handle, Return(this));
}

void CublasPool::Put(cublasHandle_t handle) {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(handle);
}

}  // namespace theria::cuda
