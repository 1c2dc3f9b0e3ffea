#include "kernels/cuda/runtime/staging.h"

#include <cstdint>

#include "kernels/cuda/runtime/cuda_check.h"
#include "kernels/cuda/runtime/strided_copy.h"

namespace theria::cuda {
namespace {

std::int64_t ElementsOf16Bytes(DType dtype) {
  return 16 / static_cast<std::int64_t>(ItemSizeBytes(dtype));
}

template <typename Void>
bool HasKernelLayout(const BasicTensorView<Void>& view) {
  const std::int64_t multiple = ElementsOf16Bytes(view.dtype);
  if (view.shape[3] % multiple != 0 || view.strides[3] != 1) return false;
  for (int axis = 0; axis < 3; ++axis) {
    if (view.shape[axis] != 1 && view.strides[axis] % multiple != 0) return false;
  }
  return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0;
}

template <typename Void>
Rows<Void> AsRows(const BasicTensorView<Void>& view) {
  return {view.data, view.strides[0], view.strides[1], view.strides[2]};
}

TensorView ReadOnly(const MutableTensorView& view) {
  return {view.data, view.dtype, view.rank, view.shape, view.strides};
}

}  // namespace

std::int64_t PaddedColumns(std::int64_t dim, DType dtype) {
  const std::int64_t multiple = ElementsOf16Bytes(dtype);
  return (dim + multiple - 1) / multiple * multiple;
}

absl::StatusOr<MutableTensorView> Staging::Packed(const TensorView& like,
                                                  std::int64_t last_multiple) {
  MutableTensorView packed;
  packed.dtype = like.dtype;
  packed.rank = like.rank;
  packed.shape = like.shape;
  std::int64_t& columns = packed.shape[like.rank - 1];
  columns = (columns + last_multiple - 1) / last_multiple * last_multiple;
  std::int64_t stride = 1;
  for (int axis = like.rank - 1; axis >= 0; --axis) {
    packed.strides[axis] = stride;
    stride *= packed.shape[axis];
  }
  absl::StatusOr<void*> data = workspace_->Allocate(packed.SizeBytes());
  if (!data.ok()) return data.status();
  packed.data = *data;
  return packed;
}

absl::StatusOr<InputRows> Staging::Input(const TensorView& view) {
  if (HasKernelLayout(view)) return AsRows(view);
  const absl::StatusOr<MutableTensorView> packed = Packed(view, ElementsOf16Bytes(view.dtype));
  if (!packed.ok()) return packed.status();
  THERIA_CUDA_RETURN_IF_ERROR(CopyStrided(*packed, view, workspace_->stream()));
  return AsRows(ReadOnly(*packed));
}

absl::StatusOr<OutputRows> Staging::Output(const MutableTensorView& view) {
  if (HasKernelLayout(view)) return AsRows(view);
  const absl::StatusOr<MutableTensorView> packed =
      Packed(ReadOnly(view), ElementsOf16Bytes(view.dtype));
  if (!packed.ok()) return packed.status();
  pending_.push_back({view, ReadOnly(*packed)});
  return AsRows(*packed);
}

absl::StatusOr<void*> Staging::InputStatistics(const TensorView& view) {
  if (view.IsRowMajor()) return const_cast<void*>(view.data);
  const absl::StatusOr<MutableTensorView> packed = Packed(view, 1);
  if (!packed.ok()) return packed.status();
  THERIA_CUDA_RETURN_IF_ERROR(CopyStrided(*packed, view, workspace_->stream()));
  return packed->data;
}

absl::StatusOr<void*> Staging::OutputStatistics(const MutableTensorView& view) {
  if (view.IsRowMajor()) return view.data;
  const absl::StatusOr<MutableTensorView> packed = Packed(ReadOnly(view), 1);
  if (!packed.ok()) return packed.status();
  pending_.push_back({view, ReadOnly(*packed)});
  return packed->data;
}

absl::Status Staging::Finish() {
  for (const Pending& copy : pending_) {
    THERIA_CUDA_RETURN_IF_ERROR(CopyStrided(copy.destination, copy.source, workspace_->stream()));
  }
  return absl::OkStatus();
}

}  // namespace theria::cuda
