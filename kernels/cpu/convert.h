#ifndef THERIA_KERNELS_CPU_CONVERT_H_
#define THERIA_KERNELS_CPU_CONVERT_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/api/tensor_view.h"

// Between tensors of any floating-point dtype, any strides and any alignment, and float64 tiles.
// Reading is exact; writing rounds once, to nearest, ties to even, overflow to infinity.

namespace theria::cpu {

// One element. REQUIRES: `dtype` is floating-point.
double ReadElement(DType dtype, const void* element);
void WriteElement(DType dtype, double value, void* element);

// The strides of a view of up to four dimensions by [batch, head, row, column], aligned at the last
// as numpy does: 0 where the view has no such dimension or an extent of 1.
template <typename Void>
std::array<std::int64_t, kMaxRank> BroadcastStrides(const BasicTensorView<Void>& view) {
  std::array<std::int64_t, kMaxRank> strides{};
  for (int axis = 0; axis < view.rank; ++axis) {
    if (view.shape[axis] != 1) strides[kMaxRank - view.rank + axis] = view.strides[axis];
  }
  return strides;
}

// The place of a matrix [rows, columns] in a tensor of rank 4 or, as one column, of rank 3.
struct MatrixPlace {
  std::int64_t batch = 0;
  std::int64_t head = 0;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
};

// tile[r, c] = view[batch, head, first_row + r, c] for r < rows and all columns; 0 elsewhere in
// tile[padded_rows, padded_columns].
void ReadTile(const TensorView& view, const MatrixPlace& place, std::int64_t padded_rows,
              std::int64_t padded_columns, double* tile);

// view[batch, head, first_row + r, c] = factor * tile[r, c].
void WriteTile(const double* tile, std::int64_t padded_columns, double factor,
               const MatrixPlace& place, const MutableTensorView& view);

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_CONVERT_H_
