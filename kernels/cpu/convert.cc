#include "kernels/cpu/convert.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace theria::cpu {
namespace {

template <typename T>
T LoadAs(const void* element) {
  T value;
  std::memcpy(&value, element, sizeof(T));
  return value;
}

// A binary floating-point format of 16 bits below an implicit leading one.
template <int kMantissaBits, int kExponentBits>
struct SmallFloat {
  static constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  static constexpr std::uint64_t kInfinity = ((std::uint64_t{1} << kExponentBits) - 1)
                                             << kMantissaBits;

  // From float64 directly: by way of float32 some results would be rounded twice.
  static std::uint16_t Encode(double value) {
    const std::uint64_t bits = std::bit_cast<std::uint64_t>(value);
    const std::uint64_t sign = bits >> 63 << 15;
    const std::uint64_t magnitude = bits << 1 >> 1;
    const int exponent = static_cast<int>(magnitude >> 52) - 1023;
    if (exponent > kBias) {
      const bool is_nan = magnitude > std::uint64_t{0x7FF} << 52;
      const std::uint64_t quiet = is_nan ? std::uint64_t{1} << (kMantissaBits - 1) : 0;
      return static_cast<std::uint16_t>(sign | kInfinity | quiet);
    }
    // Subnormal results keep fewer bits of the significand.
    const int missing = std::max(0, 1 - kBias - exponent);
    const int shift = 52 - kMantissaBits + missing;
    if (shift > 53) return static_cast<std::uint16_t>(sign);
    const std::uint64_t significand =
        (magnitude & ((std::uint64_t{1} << 52) - 1)) | std::uint64_t{1} << 52;
    const std::uint64_t odd = significand >> shift & 1;
    const std::uint64_t rounded =
        (significand + (std::uint64_t{1} << (shift - 1)) - 1 + odd) >> shift;
    // The leading one of a normal result counts as one unit of the exponent, and so does a carry.
    const std::uint64_t below = missing > 0 ? 0 : static_cast<std::uint64_t>(exponent + kBias - 1);
    return static_cast<std::uint16_t>(sign | ((below << kMantissaBits) + rounded));
  }
};

using Half = SmallFloat<10, 5>;
using BFloat = SmallFloat<7, 8>;

float HalfToFloat(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16;
  const std::uint32_t magnitude = std::uint32_t{half & 0x7FFFu} << 13;
  // Rebiases by a product, which turns subnormals into normal numbers too.
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const std::uint32_t special = magnitude >= 0x0F800000u ? 0x7F800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | special | sign);
}

struct Float64 {
  static constexpr std::size_t kBytes = 8;
  static double Read(const void* element) { return LoadAs<double>(element); }
  static void Write(double value, void* element) { std::memcpy(element, &value, sizeof(value)); }
};
struct Float32 {
  static constexpr std::size_t kBytes = 4;
  static double Read(const void* element) { return LoadAs<float>(element); }
  static void Write(double value, void* element) {
    const float rounded = static_cast<float>(value);
    std::memcpy(element, &rounded, sizeof(rounded));
  }
};
struct Float16 {
  static constexpr std::size_t kBytes = 2;
  static double Read(const void* element) { return HalfToFloat(LoadAs<std::uint16_t>(element)); }
  static void Write(double value, void* element) {
    const std::uint16_t rounded = Half::Encode(value);
    std::memcpy(element, &rounded, sizeof(rounded));
  }
};
struct BFloat16 {
  static constexpr std::size_t kBytes = 2;
  static double Read(const void* element) {
    return std::bit_cast<float>(std::uint32_t{LoadAs<std::uint16_t>(element)} << 16);
  }
  static void Write(double value, void* element) {
    const std::uint16_t rounded = BFloat::Encode(value);
    std::memcpy(element, &rounded, sizeof(rounded));
  }
};

// Calls `function` with the format of a floating-point dtype.
template <typename Function>
void WithFormat(DType dtype, Function function) {
  switch (dtype) {
    case DType::kFloat64:
      return function(Float64{});
    case DType::kFloat32:
      return function(Float32{});
    case DType::kFloat16:
      return function(Float16{});
    case DType::kBFloat16:
      return function(BFloat16{});
    case DType::kBool:
    case DType::kInt32:
      return;
  }
}

// Bytes from one row to the next and from one column to the next; the first element.
template <typename Void>
struct Strided {
  Strided(const BasicTensorView<Void>& view, const MatrixPlace& place)
      : columns(view.rank == kMaxRank ? view.shape[3] : 1),
        row_bytes(view.strides[2] * static_cast<std::int64_t>(ItemSizeBytes(view.dtype))),
        column_bytes((view.rank == kMaxRank ? view.strides[3] : 0) *
                     static_cast<std::int64_t>(ItemSizeBytes(view.dtype))) {
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    data = static_cast<Byte*>(view.data) + place.first_row * row_bytes +
           (place.batch * view.strides[0] + place.head * view.strides[1]) *
               static_cast<std::int64_t>(ItemSizeBytes(view.dtype));
  }

  Void* At(std::int64_t row, std::int64_t column) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    return static_cast<Byte*>(data) + row * row_bytes + column * column_bytes;
  }

  Void* data;
  std::int64_t columns;
  std::int64_t row_bytes;
  std::int64_t column_bytes;
};

}  // namespace

double ReadElement(DType dtype, const void* element) {
  double value = 0.0;
  WithFormat(dtype, [&](auto format) { value = format.Read(element); });
  return value;
}

void WriteElement(DType dtype, double value, void* element) {
  WithFormat(dtype, [&](auto format) { format.Write(value, element); });
}

void ReadTile(const TensorView& view, const MatrixPlace& place, std::int64_t padded_rows,
              std::int64_t padded_columns, double* tile) {
  const Strided<const void> from(view, place);
  if (from.columns == 0) {
    std::fill_n(tile, padded_rows * padded_columns, 0.0);
    return;
  }
  WithFormat(view.dtype, [&](auto format) {
    const bool contiguous = from.column_bytes == static_cast<std::int64_t>(format.kBytes);
    for (std::int64_t row = 0; row < place.rows; ++row) {
      double* to = tile + row * padded_columns;
      const char* source = static_cast<const char*>(from.At(row, 0));
      // The first loop differs from the second by its constant stride, which lets it vectorise.
      if (contiguous) {
        for (std::int64_t c = 0; c < from.columns; ++c) {
          to[c] = format.Read(source + c * static_cast<std::int64_t>(format.kBytes));
        }
      } else {
        for (std::int64_t c = 0; c < from.columns; ++c) {
          to[c] = format.Read(source + c * from.column_bytes);
        }
      }
      std::fill(to + from.columns, to + padded_columns, 0.0);
    }
  });
  std::fill(tile + place.rows * padded_columns, tile + padded_rows * padded_columns, 0.0);
}

void WriteTile(const double* tile, std::int64_t padded_columns, double factor,
               const MatrixPlace& place, const MutableTensorView& view) {
  if (view.NumElements() == 0) return;
  const Strided<void> to(view, place);
  WithFormat(view.dtype, [&](auto format) {
    for (std::int64_t row = 0; row < place.rows; ++row) {
      const double* from = tile + row * padded_columns;
      for (std::int64_t c = 0; c < to.columns; ++c) format.Write(factor * from[c], to.At(row, c));
    }
  });
}

}  // namespace theria::cpu
