#include "theria/dtype.h"

#include <algorithm>
#include <cmath>

namespace theria::client {
namespace {

// Encodes in an IEEE 754 format of 16 bits with this many exponent and mantissa bits.
std::uint16_t Encode(double value, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const int infinity = ((1 << exponent_bits) - 1) << mantissa_bits;
  if (std::isnan(value)) {
    return static_cast<std::uint16_t>(sign | infinity | (1 << (mantissa_bits - 1)));
  }
  if (std::isinf(value)) return static_cast<std::uint16_t>(sign | infinity);
  const double magnitude = std::fabs(value);
  if (magnitude == 0.0) return sign;
  const int exponent = std::max(std::ilogb(magnitude), 1 - bias);
  // The magnitude in units of the last place: scaling is exact, so this rounds once.
  const auto units =
      static_cast<int>(std::nearbyint(std::ldexp(magnitude, mantissa_bits - exponent)));
  // The leading bit of a normal number adds the missing 1 to the exponent, a carry of the rounding
  // one more.
  const int bits = ((exponent + bias - 1) * (1 << mantissa_bits)) + units;
  return static_cast<std::uint16_t>(sign | std::min(bits, infinity));
}

}  // namespace

std::size_t ItemSizeBytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 8;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kBool:
      return 1;
  }
  return 0;
}

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return "float64";
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kBool:
      return "bool";
    case DType::kInt32:
      return "int32";
  }
  return "unknown";
}

Float16::Float16(double value) : bits_(Encode(value, 5, 10)) {}

Float16::operator double() const {
  const int exponent = (bits_ >> 10) & 0x1f;
  const int mantissa = bits_ & 0x3ff;
  double magnitude;
  if (exponent == 0x1f) {
    magnitude = mantissa == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, -24);
  } else {
    magnitude = std::ldexp(mantissa + 1024, exponent - 25);
  }
  return (bits_ & 0x8000) != 0 ? -magnitude : magnitude;
}

BFloat16::BFloat16(double value) : bits_(Encode(value, 8, 7)) {}

}  // namespace theria::client
