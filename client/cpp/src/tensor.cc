#include "theria/tensor.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_join.h"
#include "client/cpp/src/text.h"

namespace theria::client {
namespace {

constexpr std::size_t kAlignmentBytes = 64;

void Require(bool condition, const char* what, absl::Span<const std::int64_t> shape) {
  if (condition) return;
  std::fprintf(stderr, "theria: tensor of shape %s: %s\n", ShapeString(shape).c_str(), what);
  std::abort();
}

std::shared_ptr<void> Allocate(std::size_t size_bytes) {
  return {::operator new (size_bytes, std::align_val_t{kAlignmentBytes}),
          [](void* data) { ::operator delete (data, std::align_val_t{kAlignmentBytes}); }};
}

Shape RowMajorStrides(const Shape& shape) {
  Shape strides(shape.size());
  std::int64_t stride = 1;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride *= shape[axis];
  }
  return strides;
}

void RequireExtents(const Shape& shape) {
  for (std::int64_t extent : shape) Require(extent >= 0, "an extent is negative", shape);
}

// Copies a strided array of items of `Item`'s size into row-major order.
template <typename Item>
void Gather(const std::byte* source, const Shape& shape, const Shape& strides, std::size_t axis,
            std::byte*& destination) {
  const auto step = static_cast<std::ptrdiff_t>(sizeof(Item)) * strides[axis];
  if (axis + 1 < shape.size()) {
    for (std::int64_t i = 0; i < shape[axis]; ++i) {
      Gather<Item>(source + i * step, shape, strides, axis + 1, destination);
    }
    return;
  }
  for (std::int64_t i = 0; i < shape[axis]; ++i) {
    std::memcpy(destination, source + i * step, sizeof(Item));
    destination += sizeof(Item);
  }
}

template <typename T>
void Widen(const void* data, std::vector<double>& values) {
  const auto* bytes = static_cast<const std::byte*>(data);
  for (double& value : values) {
    T element;
    std::memcpy(&element, bytes, sizeof(T));
    value = static_cast<double>(element);
    bytes += sizeof(T);
  }
}

template <typename T>
void Round(absl::Span<const double> values, void* data) {
  auto* elements = static_cast<T*>(data);
  for (double value : values) *elements++ = static_cast<T>(value);
}

}  // namespace

std::string ShapeString(absl::Span<const std::int64_t> shape) {
  return Text("[", absl::StrJoin(shape, ", "), "]");
}

std::int64_t NumElements(absl::Span<const std::int64_t> shape) {
  std::int64_t count = 1;
  for (std::int64_t extent : shape) count *= extent;
  return count;
}

Tensor Tensor::Zeros(DType dtype, Shape shape) {
  RequireExtents(shape);
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.strides_ = RowMajorStrides(shape);
  tensor.shape_ = std::move(shape);
  const std::shared_ptr<void> storage = Allocate(tensor.size_bytes());
  if (tensor.size_bytes() != 0) std::memset(storage.get(), 0, tensor.size_bytes());
  tensor.data_ = storage.get();
  tensor.storage_ = storage;
  tensor.writable_ = true;
  return tensor;
}

Tensor Tensor::Copy(DType dtype, const void* data, std::size_t count, Shape shape) {
  Tensor tensor = Zeros(dtype, std::move(shape));
  Require(static_cast<std::size_t>(tensor.num_elements()) == count,
          "must have as many values as elements", tensor.shape_);
  if (count != 0) std::memcpy(tensor.MutableData(), data, tensor.size_bytes());
  return tensor;
}

Tensor Tensor::Borrow(DType dtype, const void* data, Shape shape, Shape strides) {
  return Adopt(nullptr, dtype, data, std::move(shape), std::move(strides));
}

Tensor Tensor::Adopt(std::shared_ptr<const void> storage, DType dtype, const void* data,
                     Shape shape, Shape strides) {
  RequireExtents(shape);
  if (strides.empty()) strides = RowMajorStrides(shape);
  Require(strides.size() == shape.size(), "must have one stride for each extent", shape);
  for (std::int64_t stride : strides) Require(stride >= 0, "a stride is negative", shape);
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = std::move(shape);
  tensor.strides_ = std::move(strides);
  tensor.storage_ = std::move(storage);
  tensor.data_ = data;
  return tensor;
}

Tensor Tensor::AdoptWritable(std::shared_ptr<void> storage, DType dtype, void* data, Shape shape) {
  Tensor tensor = Adopt(std::move(storage), dtype, data, std::move(shape));
  tensor.writable_ = true;
  return tensor;
}

std::size_t Tensor::span_bytes() const {
  if (num_elements() == 0) return 0;
  std::int64_t last = 0;
  for (std::size_t axis = 0; axis < shape_.size(); ++axis) {
    last += (shape_[axis] - 1) * strides_[axis];
  }
  return static_cast<std::size_t>(last + 1) * ItemSizeBytes(dtype_);
}

bool Tensor::is_row_major() const {
  if (num_elements() == 0) return true;
  std::int64_t expected = 1;
  for (std::size_t axis = shape_.size(); axis-- > 0;) {
    if (shape_[axis] != 1 && strides_[axis] != expected) return false;
    expected *= shape_[axis];
  }
  return true;
}

std::vector<double> Tensor::ToDoubles() const {
  const Tensor source = RowMajor();
  std::vector<double> values(static_cast<std::size_t>(num_elements()));
  switch (dtype_) {
    case DType::kFloat64:
      Widen<double>(source.data_, values);
      break;
    case DType::kFloat32:
      Widen<float>(source.data_, values);
      break;
    case DType::kFloat16:
      Widen<Float16>(source.data_, values);
      break;
    case DType::kBFloat16:
      Widen<BFloat16>(source.data_, values);
      break;
    case DType::kBool:
      Widen<std::uint8_t>(source.data_, values);
      for (double& value : values) value = value != 0.0 ? 1.0 : 0.0;
      break;
    case DType::kInt32:
      Widen<std::int32_t>(source.data_, values);
      break;
  }
  return values;
}

Tensor Tensor::FromDoubles(DType dtype, absl::Span<const double> values, Shape shape) {
  Tensor tensor = Zeros(dtype, std::move(shape));
  Require(static_cast<std::size_t>(tensor.num_elements()) == values.size(),
          "must have as many values as elements", tensor.shape_);
  void* data = tensor.MutableData();
  switch (dtype) {
    case DType::kFloat64:
      Round<double>(values, data);
      break;
    case DType::kFloat32:
      Round<float>(values, data);
      break;
    case DType::kFloat16:
      Round<Float16>(values, data);
      break;
    case DType::kBFloat16:
      Round<BFloat16>(values, data);
      break;
    case DType::kBool:
      Round<bool>(values, data);
      break;
    case DType::kInt32:
      Round<std::int32_t>(values, data);
      break;
  }
  return tensor;
}

Tensor Tensor::RowMajor() const {
  if (is_row_major()) return *this;
  Tensor tensor = Zeros(dtype_, shape_);
  tensor.CopyFrom(*this);
  return tensor;
}

void Tensor::CopyFrom(const Tensor& source) {
  RequireRowMajor(source.dtype_);
  Require(shape_ == source.shape_, "cannot take the elements of another shape", shape_);
  if (num_elements() == 0) return;
  auto* destination = static_cast<std::byte*>(MutableData());
  if (source.is_row_major()) {
    std::memmove(destination, source.data_, size_bytes());
    return;
  }
  const auto* elements = static_cast<const std::byte*>(source.data_);
  switch (ItemSizeBytes(dtype_)) {
    case 1:
      Gather<std::uint8_t>(elements, shape_, source.strides_, 0, destination);
      break;
    case 2:
      Gather<std::uint16_t>(elements, shape_, source.strides_, 0, destination);
      break;
    case 4:
      Gather<std::uint32_t>(elements, shape_, source.strides_, 0, destination);
      break;
    default:
      Gather<std::uint64_t>(elements, shape_, source.strides_, 0, destination);
      break;
  }
}

Tensor Tensor::Transposed(int a, int b) const {
  Require(0 <= a && a < rank() && 0 <= b && b < rank(), "no such dimension to exchange", shape_);
  Tensor view = *this;
  std::swap(view.shape_[a], view.shape_[b]);
  std::swap(view.strides_[a], view.strides_[b]);
  return view;
}

Tensor Tensor::BroadcastTo(Shape shape) const {
  RequireExtents(shape);
  Require(shape.size() >= shape_.size(), "cannot be broadcast to fewer dimensions", shape_);
  Tensor view = *this;
  view.strides_.assign(shape.size(), 0);
  const std::size_t leading = shape.size() - shape_.size();
  for (std::size_t axis = 0; axis < shape_.size(); ++axis) {
    const bool repeats = shape_[axis] == 1;
    Require(repeats || shape_[axis] == shape[leading + axis], "cannot be broadcast so", shape_);
    view.strides_[leading + axis] = repeats ? 0 : strides_[axis];
  }
  view.shape_ = std::move(shape);
  return view;
}

void Tensor::RequireRowMajor(DType dtype) const {
  Require(dtype_ == dtype, "its elements were asked for as another type", shape_);
  Require(is_row_major(), "must be row-major", shape_);
}

void* Tensor::MutableData() {
  Require(writable_, "its elements are not its own to write", shape_);
  // Zeros allocated these elements as writable memory.
  return const_cast<void*>(data_);
}

}  // namespace theria::client
