#ifndef THERIA_CLIENT_CLI_PARITY_DENSE_HEAD_H_
#define THERIA_CLIENT_CLI_PARITY_DENSE_HEAD_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "client/cli/parity/dense_matrix.h"
#include "client/cli/parity/explicit_attention.h"
#include "client/cli/parity/score_rules.h"

// The matrix products of one head of explicit attention, in the arithmetic of Real.

namespace theria::cli {

template <typename Real>
Real SumOfProducts(const Real* a, const Real* b, std::size_t n, SumOrder order) {
  constexpr std::size_t kLanes = 8;
  Real sum = 0;
  if (order == SumOrder::kLanes) {
    Real lanes[kLanes] = {};
    for (std::size_t c = 0; c < n; ++c) lanes[c % kLanes] += a[c] * b[c];
    for (const Real lane : lanes) sum += lane;
  } else {
    for (std::size_t c = 0; c < n; ++c) {
      const std::size_t at = order == SumOrder::kForward ? c : n - 1 - c;
      sum += a[at] * b[at];
    }
  }
  return sum;
}

// One query head and the key head that it reads. Elements of the matrices of size seq_q x seq_kv
// where no key takes part are 0 and are never multiplied.
template <typename Real>
class Head {
 public:
  Head(const ScoreRules& rules, std::int64_t b, std::int64_t h, std::size_t seq_q,
       std::size_t seq_kv, client::DType rounded_to, SumOrder order)
      : scale_(static_cast<Real>(rules.scale())),
        softcap_(static_cast<Real>(rules.softcap())),
        rounded_to_(rounded_to),
        order_(order),
        takes_part_(seq_q, seq_kv),
        bias_(seq_q, seq_kv),
        z_(seq_q, seq_kv) {
    for (std::size_t i = 0; i < seq_q; ++i) {
      for (std::size_t j = 0; j < seq_kv; ++j) {
        const auto row = static_cast<std::int64_t>(i);
        const auto key = static_cast<std::int64_t>(j);
        takes_part_(i, j) = rules.TakesPart(b, h, row, key) ? 1 : 0;
        if (takes_part_(i, j) == 0) continue;
        bias_(i, j) = static_cast<Real>(rules.Bias(b, h, row, key));
        z_(i, j) = static_cast<Real>(rules.Dropout(b, h, row, key));
      }
    }
  }

  const Matrix<Real>& z() const { return z_; }

  // factor * a b^T; an absent factor is zero.
  Matrix<Real> RowProducts(const Matrix<Real>& a, const Matrix<Real>& b, Real factor) const {
    Matrix<Real> c(takes_part_.rows, takes_part_.columns);
    if (a.empty() || b.empty()) return c;
    ForEachPair([&](std::size_t i, std::size_t j) {
      c(i, j) = factor * SumOfProducts(&a(i, 0), &b(j, 0), a.columns, order_);
    });
    return c;
  }

  Matrix<Real> Scaled(const Matrix<Real>& a, const Matrix<Real>& b) const {
    return RowProducts(a, b, scale_);
  }

  // out += factor * weights x: each row sums over its keys.
  void AddOverKeys(Real factor, const Matrix<Real>& weights, const Matrix<Real>& x,
                   Matrix<Real>& out) const {
    if (x.empty()) return;
    const Matrix<Real> rounded = RoundFactor(weights);
    ForEachPair([&](std::size_t i, std::size_t j) {
      const Real weight = factor * rounded(i, j);
      for (std::size_t c = 0; c < x.columns; ++c) out(i, c) += weight * x(j, c);
    });
  }

  // out += factor * weights^T x: each key sums over the rows in which it takes part.
  void AddOverRows(Real factor, const Matrix<Real>& weights, const Matrix<Real>& x,
                   Matrix<Real>& out) const {
    if (x.empty()) return;
    const Matrix<Real> rounded = RoundFactor(weights);
    ForEachPair([&](std::size_t i, std::size_t j) {
      const Real weight = factor * rounded(i, j);
      for (std::size_t c = 0; c < x.columns; ++c) out(j, c) += weight * x(i, c);
    });
  }

  // t = tanh(U / c) of a soft cap c, else 0.
  Matrix<Real> CapTanh(const Matrix<Real>& u) const {
    Matrix<Real> t(u.rows, u.columns);
    if (softcap_ == 0) return t;
    ForEachPair([&](std::size_t i, std::size_t j) { t(i, j) = std::tanh(u(i, j) / softcap_); });
    return t;
  }

  // w∘a with w = 1 - t^2, the derivative of the cap.
  Matrix<Real> Slope(const Matrix<Real>& t, const Matrix<Real>& a) const {
    Matrix<Real> c(a.rows, a.columns);
    ForEachPair([&](std::size_t i, std::size_t j) { c(i, j) = (1 - t(i, j) * t(i, j)) * a(i, j); });
    return c;
  }

  // -(2/c) t∘w∘a∘b, the second derivative of the cap in two directions.
  Matrix<Real> Curvature(const Matrix<Real>& t, const Matrix<Real>& a,
                         const Matrix<Real>& b) const {
    Matrix<Real> c(a.rows, a.columns);
    if (softcap_ == 0) return c;
    ForEachPair([&](std::size_t i, std::size_t j) {
      c(i, j) = -2 / softcap_ * t(i, j) * (1 - t(i, j) * t(i, j)) * a(i, j) * b(i, j);
    });
    return c;
  }

  // `a` where keys take part, else 0; all 0 if it is absent.
  Matrix<Real> Restricted(const Matrix<Real>& a) const {
    Matrix<Real> c(takes_part_.rows, takes_part_.columns);
    if (a.empty()) return c;
    ForEachPair([&](std::size_t i, std::size_t j) { c(i, j) = a(i, j); });
    return c;
  }

  // P of the scores U, or c t under a soft cap; lse gets m + log(l).
  Matrix<Real> Softmax(const Matrix<Real>& u, const Matrix<Real>& t, Matrix<Real>& lse) const {
    Matrix<Real> p(u.rows, u.columns);
    std::vector<Real> m(p.rows, -std::numeric_limits<Real>::infinity());
    std::vector<Real> l(p.rows);
    ForEachPair([&](std::size_t i, std::size_t j) {
      p(i, j) = (softcap_ == 0 ? u(i, j) : softcap_ * t(i, j)) + bias_(i, j);
      if (p(i, j) > m[i]) m[i] = p(i, j);
    });
    ForEachPair([&](std::size_t i, std::size_t j) {
      p(i, j) = std::exp(p(i, j) - m[i]);
      l[i] += p(i, j);
    });
    ForEachPair([&](std::size_t i, std::size_t j) { p(i, j) /= l[i]; });
    for (std::size_t i = 0; i < p.rows; ++i) lse(i, 0) = m[i] + std::log(l[i]);
    return p;
  }

  // rowsum(a∘b), seq_q x 1.
  Matrix<Real> RowSums(const Matrix<Real>& a, const Matrix<Real>& b) const {
    Matrix<Real> sums(a.rows, 1);
    ForEachPair([&](std::size_t i, std::size_t j) { sums(i, 0) += a(i, j) * b(i, j); });
    return sums;
  }

  // a∘(b - row), row being seq_q x 1.
  Matrix<Real> Centred(const Matrix<Real>& a, const Matrix<Real>& b,
                       const Matrix<Real>& row) const {
    Matrix<Real> c(a.rows, a.columns);
    ForEachPair([&](std::size_t i, std::size_t j) { c(i, j) = a(i, j) * (b(i, j) - row(i, 0)); });
    return c;
  }

  Matrix<Real> Times(const Matrix<Real>& a, const Matrix<Real>& b) const {
    Matrix<Real> c(a.rows, a.columns);
    ForEachPair([&](std::size_t i, std::size_t j) { c(i, j) = a(i, j) * b(i, j); });
    return c;
  }

  Matrix<Real> Sum(const Matrix<Real>& a, const Matrix<Real>& b) const {
    Matrix<Real> c(a.rows, a.columns);
    for (std::size_t n = 0; n < c.values.size(); ++n) c.values[n] = a.values[n] + b.values[n];
    return c;
  }

  // a - b, an absent b being zero.
  Matrix<Real> Difference(Matrix<Real> a, const Matrix<Real>& b) const {
    for (std::size_t n = 0; n < b.values.size(); ++n) a.values[n] -= b.values[n];
    return a;
  }

  // The matrix as a factor of a further product: float16 and bfloat16 round it.
  Matrix<Real> RoundFactor(Matrix<Real> matrix) const {
    for (Real& value : matrix.values) {
      if (rounded_to_ == client::DType::kFloat16) {
        value = static_cast<Real>(static_cast<double>(client::Float16(static_cast<double>(value))));
      } else if (rounded_to_ == client::DType::kBFloat16) {
        value =
            static_cast<Real>(static_cast<double>(client::BFloat16(static_cast<double>(value))));
      }
    }
    return matrix;
  }

  Real scale() const { return scale_; }

 private:
  template <typename Action>
  void ForEachPair(Action action) const {
    for (std::size_t i = 0; i < takes_part_.rows; ++i) {
      for (std::size_t j = 0; j < takes_part_.columns; ++j) {
        if (takes_part_(i, j) != 0) action(i, j);
      }
    }
  }

  const Real scale_;
  const Real softcap_;  // 0: none
  const client::DType rounded_to_;
  const SumOrder order_;
  Matrix<std::uint8_t> takes_part_;
  Matrix<Real> bias_, z_;
};

// sum_c a(i, c) b(i, c), seq_q x 1; an absent factor is zero.
template <typename Real>
Matrix<Real> RowDots(const Matrix<Real>& a, const Matrix<Real>& b) {
  Matrix<Real> sums(b.rows, 1);
  if (a.empty()) return sums;
  for (std::size_t i = 0; i < a.rows; ++i) {
    sums(i, 0) = SumOfProducts(&a(i, 0), &b(i, 0), a.columns, SumOrder::kForward);
  }
  return sums;
}

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_DENSE_HEAD_H_
