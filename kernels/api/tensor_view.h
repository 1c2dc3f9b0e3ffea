#ifndef THERIA_KERNELS_API_TENSOR_VIEW_H_
#define THERIA_KERNELS_API_TENSOR_VIEW_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels/api/dtype.h"

// A non-owning view of a strided tensor of up to four dimensions.
//
// Views are values: copying one copies no element. `data` points at the element of index 0 (device
// memory for a device backend, host memory otherwise) and need not be aligned to the item size on
// the host. Strides count elements and are not negative; a stride of 0 repeats (broadcasts) its
// dimension and is allowed for inputs only.

namespace theria {

inline constexpr int kMaxRank = 4;

template <typename Void>
struct BasicTensorView {
  static_assert(std::is_void_v<Void>);

  Void* data = nullptr;
  DType dtype = DType::kFloat32;
  int rank = 0;
  std::array<std::int64_t, kMaxRank> shape{};
  std::array<std::int64_t, kMaxRank> strides{};

  std::int64_t NumElements() const {
    std::int64_t count = 1;
    for (int axis = 0; axis < rank; ++axis) count *= shape[axis];
    return count;
  }

  // Bytes of the elements themselves, repeated ones counted each time.
  std::size_t SizeBytes() const {
    return static_cast<std::size_t>(NumElements()) * ItemSizeBytes(dtype);
  }

  // Elements from the first to one past the last that the view reaches; 0 for an empty view.
  std::int64_t SpanElements() const {
    if (NumElements() == 0) return 0;
    std::int64_t last = 0;
    for (int axis = 0; axis < rank; ++axis) last += (shape[axis] - 1) * strides[axis];
    return last + 1;
  }

  bool IsRowMajor() const {
    if (NumElements() == 0) return true;
    std::int64_t expected = 1;
    for (int axis = rank - 1; axis >= 0; --axis) {
      if (shape[axis] != 1 && strides[axis] != expected) return false;
      expected *= shape[axis];
    }
    return true;
  }

  // Strides of the shape without gaps. An empty view has no stride of 0 either.
  void SetRowMajor() {
    std::int64_t stride = 1;
    for (int axis = rank - 1; axis >= 0; --axis) {
      strides[axis] = stride;
      stride *= std::max<std::int64_t>(shape[axis], 1);
    }
  }
};

using TensorView = BasicTensorView<const void>;
using MutableTensorView = BasicTensorView<void>;

// A row-major view. REQUIRES: shape.size() <= kMaxRank.
template <typename Void>
BasicTensorView<Void> RowMajorView(Void* data, DType dtype,
                                   std::initializer_list<std::int64_t> shape) {
  BasicTensorView<Void> view;
  view.data = data;
  view.dtype = dtype;
  for (std::int64_t extent : shape) view.shape[view.rank++] = extent;
  view.SetRowMajor();
  return view;
}

}  // namespace theria

#endif  // THERIA_KERNELS_API_TENSOR_VIEW_H_
