#ifndef THERIA_CLIENT_CLI_PARITY_DENSE_MATRIX_H_
#define THERIA_CLIENT_CLI_PARITY_DENSE_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "theria/attention.h"

// Matrices of explicit attention. Plain values.

namespace theria::cli {

template <typename Real>
struct Matrix {
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::vector<Real> values;  // row-major

  Matrix() = default;
  Matrix(std::size_t n, std::size_t m) : rows(n), columns(m), values(n * m) {}
  bool empty() const { return values.empty(); }
  Real& operator()(std::size_t i, std::size_t j) { return values[i * columns + j]; }
  const Real& operator()(std::size_t i, std::size_t j) const { return values[i * columns + j]; }
};

// A tensor [batch, heads, rows, columns] as a matrix for each batch and head.
template <typename Real>
struct Planes {
  client::Shape shape;
  std::vector<Matrix<Real>> matrices;

  Planes() = default;
  explicit Planes(client::Shape extents)
      : shape(std::move(extents)),
        matrices(
            static_cast<std::size_t>(shape[0] * shape[1]),
            Matrix<Real>(static_cast<std::size_t>(shape[2]), static_cast<std::size_t>(shape[3]))) {}
  // A statistic, [batch, heads, rows], has one column.
  explicit Planes(const client::AnyTensor& tensor) {
    if (!tensor.has_value()) return;
    client::Shape extents = tensor.local().shape();
    extents.resize(4, 1);
    *this = Planes(extents);
    const std::vector<double> doubles = tensor.local().ToDoubles();
    auto next = doubles.begin();
    for (Matrix<Real>& matrix : matrices) {
      for (Real& value : matrix.values) value = static_cast<Real>(*next++);
    }
  }

  bool empty() const { return matrices.empty(); }
  Matrix<Real>& At(std::int64_t b, std::int64_t h) {
    return matrices[static_cast<std::size_t>(b * shape[1] + h)];
  }
  client::Tensor ToTensor(client::DType dtype, bool is_statistic) const {
    std::vector<double> doubles;
    for (const Matrix<Real>& matrix : matrices) {
      for (const Real value : matrix.values) doubles.push_back(static_cast<double>(value));
    }
    client::Shape extents = shape;
    if (is_statistic) extents.pop_back();
    return client::Tensor::FromDoubles(dtype, doubles, std::move(extents));
  }
};

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_DENSE_MATRIX_H_
