#ifndef THERIA_KERNELS_CUDA_RUNTIME_STAGING_H_
#define THERIA_KERNELS_CUDA_RUNTIME_STAGING_H_

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/tensor_view.h"
#include "kernels/cuda/attention/params.h"
#include "kernels/cuda/runtime/workspace.h"

namespace theria::cuda {

// Gives kernels the layouts they want: tensors whose rows are 16-byte aligned, adjacent and whole
// multiples of 16 bytes pass as they are, others through packed copies in the workspace. All copies
// are asynchronous on the workspace's stream. Not thread-safe.
class Staging {
 public:
  explicit Staging(Workspace* workspace) : workspace_(workspace) {}

  // [batch, heads, seq, dim] to read. Errors: RESOURCE_EXHAUSTED, INTERNAL.
  absl::StatusOr<InputRows> Input(const TensorView& view);
  // The same to write; Finish copies packed results to `view`.
  absl::StatusOr<OutputRows> Output(const MutableTensorView& view);
  // Row-major [batch, heads, seq] statistics, to read and to write.
  absl::StatusOr<void*> InputStatistics(const TensorView& view);
  absl::StatusOr<void*> OutputStatistics(const MutableTensorView& view);

  // Enqueues the copies of packed results. Call once, after the kernels are enqueued.
  absl::Status Finish();

 private:
  struct Pending {
    MutableTensorView destination;
    TensorView source;
  };

  absl::StatusOr<MutableTensorView> Packed(const TensorView& like, std::int64_t last_multiple);

  Workspace* workspace_;
  std::vector<Pending> pending_;
};

// `dim` rounded up to whole 16 bytes, as the kernels count it.
std::int64_t PaddedColumns(std::int64_t dim, DType dtype);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_RUNTIME_STAGING_H_
