#ifndef THERIA_KERNELS_CUDA_UNFUSED_CUBLAS_H_
#define THERIA_KERNELS_CUDA_UNFUSED_CUBLAS_H_

#include <cublas_v2.h>

#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace theria::cuda {

// The functions of cuBLAS that are used here, from the library on this machine. It is loaded when
// first asked for, not linked: linked, its 100 KiB of thread-local storage would be part of every
// thread's stack, and libraries that start threads with small stacks could not (docs/decisions).
struct Cublas {
  // Of the overloads, the one with a cublasComputeType_t.
  using GemmStridedBatched = cublasStatus_t (*)(
      cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n, int k, const void* alpha,
      const void* a, cudaDataType, int lda, long long stride_a, const void* b, cudaDataType,
      int ldb, long long stride_b, const void* beta, void* c, cudaDataType, int ldc,
      long long stride_c, int count, cublasComputeType_t, cublasGemmAlgo_t);

  decltype(&cublasCreate_v2) create;
  decltype(&cublasDestroy_v2) destroy;
  decltype(&cublasSetStream_v2) set_stream;
  GemmStridedBatched gemm_strided_batched;
  decltype(&cublasGetStatusString) status_string;

  // Errors: UNIMPLEMENTED, where the library is not installed. Thread-safe.
  static absl::StatusOr<const Cublas*> Load();
  // REQUIRES: Load succeeded.
  static const Cublas& Get();
};

// REQUIRES: Cublas::Load succeeded. INTERNAL (RESOURCE_EXHAUSTED where memory ran out) with
// cuBLAS's own text, or OK.
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

  // A handle of the current device. Errors: INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED.
  absl::StatusOr<Borrowed> Borrow();

 private:
  void Put(cublasHandle_t handle);

  std::mutex mutex_;
  std::vector<cublasHandle_t> idle_;
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_UNFUSED_CUBLAS_H_
