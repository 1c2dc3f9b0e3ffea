#ifndef THERIA_TENSOR_H_
#define THERIA_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "theria/dtype.h"

// Tensors in the memory of the calling process: the inputs and outputs of a Client.

namespace theria::client {

using Shape = std::vector<std::int64_t>;

// "[2, 4, 128, 64]".
std::string ShapeString(absl::Span<const std::int64_t> shape);

// The product of the extents; 1 for no extents.
std::int64_t NumElements(absl::Span<const std::int64_t> shape);

// A strided array of elements of one dtype.
//
// A Tensor either owns its elements or borrows them from the caller. Copying a Tensor does not copy
// elements: copies and views share them, as in numpy and PyTorch, and owned elements live until the
// last copy or view is destroyed. Strides count elements and are not negative; 0 repeats an element
// along its dimension. Thread safety is that of a container: const members may be called from
// several threads, but not while elements are written.
//
// A violated REQUIRES below is a bug of the caller and ends the process with a message.
class Tensor {
 public:
  // Float32, shape [0], no elements.
  Tensor() = default;

  // Owns its elements; row-major. REQUIRES: no extent is negative.
  static Tensor Zeros(DType dtype, Shape shape);

  // Owns a copy of `values`, row-major. REQUIRES: as many values as `shape` has elements.
  template <typename T>
  static Tensor FromValues(absl::Span<const T> values, const Shape& shape) {
    return Copy(DTypeOf<T>, values.data(), values.size(), shape);
  }
  template <typename T>
  static Tensor FromValues(const std::vector<T>& values, const Shape& shape) {
    return FromValues(absl::MakeConstSpan(values), shape);
  }
  template <typename T>
  static Tensor FromValues(std::initializer_list<T> values, const Shape& shape) {
    return Copy(DTypeOf<T>, values.begin(), values.size(), shape);
  }

  // Borrows the elements at `data`: element i is at data[sum_d(i_d * strides_d)]. Empty strides
  // mean row-major. REQUIRES: the memory outlives this Tensor and all its copies and views, and is
  // not written while one of them is used. There is one stride per extent, and none is negative.
  static Tensor Borrow(DType dtype, const void* data, Shape shape, Shape strides = {});
  template <typename T>
  static Tensor Borrow(const T* data, const Shape& shape, const Shape& strides = {}) {
    return Borrow(DTypeOf<T>, data, shape, strides);
  }

  // As Borrow, but shares the ownership of `storage`, to which `data` belongs.
  static Tensor Adopt(std::shared_ptr<const void> storage, DType dtype, const void* data,
                      Shape shape, Shape strides = {});

  // As Adopt, row-major, and mutable_values may write the elements. REQUIRES: no extent is
  // negative.
  static Tensor AdoptWritable(std::shared_ptr<void> storage, DType dtype, void* data, Shape shape);

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }
  int rank() const { return static_cast<int>(shape_.size()); }
  std::int64_t num_elements() const { return NumElements(shape_); }

  // The element of index 0. It is aligned for its type, unless it is borrowed from unaligned
  // memory.
  const void* data() const { return data_; }

  // The size of a row-major copy in bytes: repeated elements count each time.
  std::size_t size_bytes() const {
    return static_cast<std::size_t>(num_elements()) * ItemSizeBytes(dtype_);
  }

  // Bytes from the first element to the end of the last element.
  std::size_t span_bytes() const;

  bool owns_elements() const { return storage_ != nullptr; }
  bool is_row_major() const;

  // The elements in order. REQUIRES: is_row_major() and dtype() == DTypeOf<T>.
  template <typename T>
  absl::Span<const T> values() const {
    RequireRowMajor(DTypeOf<T>);
    return {static_cast<const T*>(data_), static_cast<std::size_t>(num_elements())};
  }

  // For writing. All copies and views see the change. REQUIRES: as for values(), and the tensor was
  // created by Zeros, FromValues or AdoptWritable.
  template <typename T>
  absl::Span<T> mutable_values() {
    RequireRowMajor(DTypeOf<T>);
    return {static_cast<T*>(MutableData()), static_cast<std::size_t>(num_elements())};
  }

  // Writes the elements of `source` here. REQUIRES: equal dtype and shape; otherwise as for
  // mutable_values.
  void CopyFrom(const Tensor& source);

  // The elements in row-major order as float64, exactly (kBool: 0 or 1).
  std::vector<double> ToDoubles() const;

  // A row-major tensor of `values` rounded to `dtype` once, to nearest, ties to even (kBool: 0 is
  // false). REQUIRES: as for FromValues.
  static Tensor FromDoubles(DType dtype, absl::Span<const double> values, Shape shape);

  // A row-major tensor with these elements rounded to `dtype`.
  Tensor Cast(DType dtype) const { return FromDoubles(dtype, ToDoubles(), shape_); }

  // This tensor if it is row-major, else a row-major copy.
  Tensor RowMajor() const;

  // A view with dimensions `a` and `b` exchanged. REQUIRES: both in [0, rank()).
  Tensor Transposed(int a, int b) const;

  // A view in which extents of 1 are repeated to those of `shape`, aligned at the last dimension as
  // in numpy. REQUIRES: the shapes are compatible.
  Tensor BroadcastTo(Shape shape) const;

 private:
  static Tensor Copy(DType dtype, const void* data, std::size_t count, Shape shape);
  void RequireRowMajor(DType dtype) const;
  void* MutableData();

  DType dtype_ = DType::kFloat32;
  Shape shape_ = {0};
  Shape strides_ = {1};
  std::shared_ptr<const void> storage_;
  const void* data_ = nullptr;
  bool writable_ = false;
};

}  // namespace theria::client

#endif  // THERIA_TENSOR_H_
