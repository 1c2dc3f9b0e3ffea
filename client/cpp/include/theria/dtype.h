#ifndef THERIA_DTYPE_H_
#define THERIA_DTYPE_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

// Element types of tensors, and the two 16-bit floating-point types as C++ values. All plain
// values; free of state and of errors.

namespace theria::client {

enum class DType : std::uint8_t {
  kFloat64,
  kFloat32,
  kFloat16,   // IEEE 754 binary16
  kBFloat16,  // upper half of an IEEE 754 binary32
  kBool,      // one byte an element; zero is false, anything else true
  kInt32,     // lengths and offsets among the options
};

// Bytes of one element.
std::size_t ItemSizeBytes(DType dtype);

// "float64", "float32", "float16", "bfloat16", "bool", "int32".
std::string_view DTypeName(DType dtype);

inline bool IsFloatingPoint(DType dtype) { return dtype != DType::kBool && dtype != DType::kInt32; }

// The dtype of `lse` and `lse_dot` beside inputs of `dtype`: float64 for float64, else float32.
inline DType StatisticsDType(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

// IEEE 754 binary16. Conversion from double rounds once, to nearest, ties to even; conversion to
// double is exact.
class Float16 {
 public:
  Float16() = default;
  explicit Float16(double value);
  explicit operator double() const;
  std::uint16_t bits() const { return bits_; }

 private:
  std::uint16_t bits_ = 0;
};

// The upper half of an IEEE 754 binary32; rounds as Float16 does.
class BFloat16 {
 public:
  BFloat16() = default;
  explicit BFloat16(double value);
  explicit operator double() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits_) << 16);
  }
  std::uint16_t bits() const { return bits_; }

 private:
  std::uint16_t bits_ = 0;
};

// DTypeOf<T>: the DType whose elements are of the C++ type T.
template <typename T>
struct DTypeOfType;
template <>
struct DTypeOfType<double> {
  static constexpr DType kValue = DType::kFloat64;
};
template <>
struct DTypeOfType<float> {
  static constexpr DType kValue = DType::kFloat32;
};
template <>
struct DTypeOfType<Float16> {
  static constexpr DType kValue = DType::kFloat16;
};
template <>
struct DTypeOfType<BFloat16> {
  static constexpr DType kValue = DType::kBFloat16;
};
template <>
struct DTypeOfType<bool> {
  static constexpr DType kValue = DType::kBool;
};
template <>
struct DTypeOfType<std::int32_t> {
  static constexpr DType kValue = DType::kInt32;
};
template <typename T>
inline constexpr DType DTypeOf = DTypeOfType<T>::kValue;

}  // namespace theria::client

#endif  // THERIA_DTYPE_H_
