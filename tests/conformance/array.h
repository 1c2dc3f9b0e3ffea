#ifndef THERIA_TESTS_CONFORMANCE_ARRAY_H_
#define THERIA_TESTS_CONFORMANCE_ARRAY_H_

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kernels/api/tensor_view.h"

// Tensors of the conformance suite: as float64 numbers, and as the bytes that a backend gets.

namespace theria::conformance {

// Row-major float64.
struct Array {
  std::vector<std::int64_t> shape;
  std::vector<double> values;
};
using Arrays = std::map<std::string, Array>;  // by the names of docs/operator_contract.md

Array Zeros(std::vector<std::int64_t> shape);
Array RandomNormal(std::vector<std::int64_t> shape, std::mt19937_64& generator);

// factor_a * a + factor_b * b, element by element. REQUIRES: equal shapes.
Array Combine(double factor_a, const Array& a, double factor_b, const Array& b);
double InnerProduct(const Array& a, const Array& b);
double MaxAbs(const Array& a);

// How a tensor lies in memory.
enum class Layout {
  kRowMajor,
  kHeadsInner,  // [batch, seq, heads, dim] in memory, as most models have it
  kTransposed,  // the last two dimensions swapped
  kGapped,      // every other element, between rows that do not touch, at an odd address
};

// The bytes of a tensor of rank 3 or 4 (any rank up to 4 for kRowMajor), rounded to `dtype`.
struct HostTensor {
  DType dtype = DType::kFloat64;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // elements
  std::int64_t offset_bytes = 0;
  std::vector<unsigned char> bytes;

  // REQUIRES: `data` holds what `bytes` holds.
  TensorView View(const void* data) const;
};
HostTensor Encode(const Array& array, DType dtype, Layout layout);
HostTensor EncodeBool(const Array& array);  // not zero is true
HostTensor EncodeInt32(const std::vector<std::int64_t>& values);

// The numbers that `bytes` hold.
Array Decode(const HostTensor& tensor);

// What rounding to `dtype` leaves of an array.
Array RoundTo(const Array& array, DType dtype);

}  // namespace theria::conformance

#endif  // THERIA_TESTS_CONFORMANCE_ARRAY_H_
