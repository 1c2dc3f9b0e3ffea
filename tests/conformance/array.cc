#include "tests/conformance/array.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>

#include "kernels/cpu/convert.h"

namespace theria::conformance {
namespace {

std::int64_t Count(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

// Strides of a row-major tensor whose dimensions lie in the order `order`, with `gap` elements
// for each and `row_gap` more after each innermost run.
std::vector<std::int64_t> StridesInOrder(const std::vector<std::int64_t>& shape,
                                         const std::vector<int>& order, std::int64_t gap,
                                         std::int64_t row_gap) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t stride = gap;
  for (std::size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = stride;
    stride *= shape[order[i]];
    if (i == order.size() - 1) stride += row_gap;
  }
  return strides;
}

std::vector<std::int64_t> Strides(const std::vector<std::int64_t>& shape, Layout layout) {
  std::vector<int> order(shape.size());
  std::iota(order.begin(), order.end(), 0);
  switch (layout) {
    case Layout::kRowMajor:
      return StridesInOrder(shape, order, 1, 0);
    case Layout::kHeadsInner:
      std::swap(order[1], order[2]);
      return StridesInOrder(shape, order, 1, 0);
    case Layout::kTransposed:
      std::swap(order[order.size() - 2], order[order.size() - 1]);
      return StridesInOrder(shape, order, 1, 0);
    case Layout::kGapped:
      return StridesInOrder(shape, order, 2, 3);
  }
  return {};
}

// Calls visit(row-major index, index in memory) for each element.
template <typename Visit>
void ForEachElement(const std::vector<std::int64_t>& shape,
                    const std::vector<std::int64_t>& strides, Visit visit) {
  for (std::int64_t flat = 0; flat < Count(shape); ++flat) {
    std::int64_t place = 0;
    std::int64_t rest = flat;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      place += rest % shape[axis] * strides[axis];
      rest /= shape[axis];
    }
    visit(flat, place);
  }
}

std::int64_t Span(const std::vector<std::int64_t>& shape,
                  const std::vector<std::int64_t>& strides) {
  if (Count(shape) == 0) return 0;
  std::int64_t last = 0;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    last += (shape[axis] - 1) * strides[axis];
  }
  return last + 1;
}

}  // namespace

Array Zeros(std::vector<std::int64_t> shape) {
  const std::int64_t count = Count(shape);
  return {std::move(shape), std::vector<double>(count, 0.0)};
}

Array RandomNormal(std::vector<std::int64_t> shape, std::mt19937_64& generator) {
  Array array = Zeros(std::move(shape));
  std::normal_distribution<double> normal;
  for (double& value : array.values) value = normal(generator);
  return array;
}

Array Combine(double factor_a, const Array& a, double factor_b, const Array& b) {
  Array result = a;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    result.values[i] = factor_a * a.values[i] + factor_b * b.values[i];
  }
  return result;
}

double InnerProduct(const Array& a, const Array& b) {
  return std::inner_product(a.values.begin(), a.values.end(), b.values.begin(), 0.0);
}

double MaxAbs(const Array& a) {
  double largest = 0.0;
  for (const double value : a.values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

TensorView HostTensor::View(const void* data) const {
  TensorView view;
  view.data = static_cast<const char*>(data) + offset_bytes;
  view.dtype = dtype;
  view.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  std::copy(strides.begin(), strides.end(), view.strides.begin());
  return view;
}

HostTensor Encode(const Array& array, DType dtype, Layout layout) {
  HostTensor tensor;
  tensor.dtype = dtype;
  tensor.shape = array.shape;
  tensor.strides = Strides(array.shape, layout);
  tensor.offset_bytes = layout == Layout::kGapped ? 1 : 0;
  const auto item_bytes = static_cast<std::int64_t>(ItemSizeBytes(dtype));
  // Whatever lies in the gaps must not matter: all ones is a NaN in every format.
  tensor.bytes.assign(tensor.offset_bytes + Span(tensor.shape, tensor.strides) * item_bytes, 0xFF);
  ForEachElement(tensor.shape, tensor.strides, [&](std::int64_t flat, std::int64_t place) {
    cpu::WriteElement(dtype, array.values[flat],
                      tensor.bytes.data() + tensor.offset_bytes + place * item_bytes);
  });
  return tensor;
}

HostTensor EncodeBool(const Array& array) {
  HostTensor tensor;
  tensor.dtype = DType::kBool;
  tensor.shape = array.shape;
  tensor.strides = Strides(array.shape, Layout::kRowMajor);
  // Any byte but zero is true.
  for (const double value : array.values) tensor.bytes.push_back(value != 0.0 ? 0x80 : 0);
  return tensor;
}

HostTensor EncodeInt32(const std::vector<std::int64_t>& values) {
  HostTensor tensor;
  tensor.dtype = DType::kInt32;
  tensor.shape = {static_cast<std::int64_t>(values.size())};
  tensor.strides = {1};
  for (const std::int64_t value : values) {
    const auto element = static_cast<std::int32_t>(value);
    const auto* const bytes = reinterpret_cast<const unsigned char*>(&element);
    tensor.bytes.insert(tensor.bytes.end(), bytes, bytes + sizeof(element));
  }
  return tensor;
}

Array Decode(const HostTensor& tensor) {
  Array array = Zeros(tensor.shape);
  const auto item_bytes = static_cast<std::int64_t>(ItemSizeBytes(tensor.dtype));
  ForEachElement(tensor.shape, tensor.strides, [&](std::int64_t flat, std::int64_t place) {
    const unsigned char* element = tensor.bytes.data() + tensor.offset_bytes + place * item_bytes;
    switch (tensor.dtype) {
      case DType::kBool:
        array.values[flat] = *element != 0;
        break;
      case DType::kInt32: {
        std::int32_t value = 0;
        std::memcpy(&value, element, sizeof(value));
        array.values[flat] = value;
        break;
      }
      default:
        array.values[flat] = cpu::ReadElement(tensor.dtype, element);
    }
  });
  return array;
}

Array RoundTo(const Array& array, DType dtype) {
  return Decode(Encode(array, dtype, Layout::kRowMajor));
}

}  // namespace theria::conformance
