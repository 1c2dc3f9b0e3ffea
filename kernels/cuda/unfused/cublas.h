#ifndef THERIA_KERNELS_CUDA_UNFUSED_CUBLAS_H_
#define THERIA_KERNELS_CUDA_UNFUSED_CUBLAS_H_

#include <cublas_v2.h>

#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"

namespace theria::cuda {

// INTERNAL (RESOURCE_EXHAUSTED where memory ran out) with cuBLAS's own text, or OK.
absl::Status CublasStatus(cublasStatus_t status, std::string_view step);

// cuBLAS handles that callers borrow, one for each computation in flight: making one takes
// milliseconds. Thread-safe; must outlive what it lends.
class CublasPool {
 public:
  CublasPool() = default;
  ~CublasPool();
  CublasPool(const CublasPool&) = delete;
  CublasPool& operator=(const CublasPool&) = delete;

  class Return {
   public:
    explicit Return(CublasPool* pool) : pool_(pool) {}
    void operator()(cublasHandle_t handle) const { pool_->Put(handle); }

   private:
    CublasPool* pool_;
  };
  using Borrowed = std::unique_ptr<cublasContext, Return>;

  // A handle of the current device. Errors: INTERNAL, RESOURCE_EXHAUSTED.
  absl::StatusOr<Borrowed> Borrow();

 private:
  void Put(cublasHandle_t handle);

  std::mutex mutex_;
  std::vector<cublasHandle_t> idle_;
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_UNFUSED_CUBLAS_H_
