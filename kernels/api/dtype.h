#ifndef THERIA_KERNELS_API_DTYPE_H_
#define THERIA_KERNELS_API_DTYPE_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

// The element types of the operator contract. All are little-endian in memory and on the wire.
//
// This header is free of dependencies, so that host, device and server code all include it.

namespace theria {

enum class DType : std::uint8_t {
  kFloat64,
  kFloat32,
  kFloat16,   // IEEE 754 binary16
  kBFloat16,  // upper half of an IEEE 754 binary32
  kBool,      // one byte; zero is false, anything else true
  kInt32,     // lengths and offsets
};

// Bytes of one element.
constexpr std::size_t ItemSizeBytes(DType dtype) {
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

// The name used in messages, logs and metric labels, as numpy spells it.
constexpr std::string_view DTypeName(DType dtype) {
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

constexpr bool IsFloatingPoint(DType dtype) { return dtype <= DType::kBFloat16; }

// The dtype of the row statistics (`lse`, `lse_dot`) that go with inputs of `dtype`.
constexpr DType StatisticsDType(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

}  // namespace theria

#endif  // THERIA_KERNELS_API_DTYPE_H_
