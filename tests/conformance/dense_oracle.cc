#include "tests/conformance/dense_oracle.h"

#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/api/score_mod.h"

namespace theria::conformance {
namespace {

using Number = long double;

struct Matrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<Number> elements;

  Matrix(std::int64_t r, std::int64_t c) : rows(r), columns(c), elements(r * c, 0.0L) {}
  Number& operator()(std::int64_t r, std::int64_t c) { return elements[r * columns + c]; }
  Number operator()(std::int64_t r, std::int64_t c) const { return elements[r * columns + c]; }
};

Matrix Each(const Matrix& a, const Matrix& b, const std::function<Number(Number, Number)>& f) {
  Matrix result(a.rows, a.columns);
  for (std::size_t i = 0; i < a.elements.size(); ++i) {
    result.elements[i] = f(a.elements[i], b.elements[i]);
  }
  return result;
}

Matrix operator+(const Matrix& a, const Matrix& b) { return Each(a, b, std::plus<>()); }
Matrix operator%(const Matrix& a, const Matrix& b) { return Each(a, b, std::multiplies<>()); }
Matrix operator*(Number factor, const Matrix& a) {
  return Each(a, a, [&](Number x, Number) { return factor * x; });
}

Matrix Transpose(const Matrix& a) {
  Matrix result(a.columns, a.rows);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t c = 0; c < a.columns; ++c) result(c, r) = a(r, c);
  }
  return result;
}

Matrix operator*(const Matrix& a, const Matrix& b) {
  Matrix result(a.rows, b.columns);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t p = 0; p < a.columns; ++p) {
      for (std::int64_t c = 0; c < b.columns; ++c) result(r, c) += a(r, p) * b(p, c);
    }
  }
  return result;
}

// [rows, 1]
Matrix RowSum(const Matrix& a) {
  Matrix result(a.rows, 1);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t c = 0; c < a.columns; ++c) result(r, 0) += a(r, c);
  }
  return result;
}

// a - column, the column repeated
Matrix MinusColumn(const Matrix& a, const Matrix& column) {
  Matrix result = a;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t c = 0; c < a.columns; ++c) result(r, c) -= column(r, 0);
  }
  return result;
}

Matrix Plane(const Array& array, std::int64_t batch, std::int64_t head) {
  const std::int64_t rows = array.shape[2];
  const std::int64_t columns = array.shape[3];
  Matrix result(rows, columns);
  const std::int64_t first = (batch * array.shape[1] + head) * rows * columns;
  for (std::int64_t i = 0; i < rows * columns; ++i) result.elements[i] = array.values[first + i];
  return result;
}

void AddPlane(const Matrix& plane, std::int64_t batch, std::int64_t head, Array& array) {
  const std::int64_t first = (batch * array.shape[1] + head) * plane.rows * plane.columns;
  for (std::size_t i = 0; i < plane.elements.size(); ++i) {
    array.values[first + i] += static_cast<double>(plane.elements[i]);
  }
}

// B, by the words of the contract.
Number Bias(const Problem& problem, const std::optional<Array>& mask, std::int64_t batch,
            std::int64_t head, std::int64_t i, std::int64_t j) {
  constexpr Number kForbidden = -std::numeric_limits<Number>::infinity();
  const AttentionOptions& options = problem.shape.options;
  if (options.is_causal && j > i) return kForbidden;
  if (options.window.has_value()) {
    if (options.window->left.has_value() && i - j > *options.window->left) return kForbidden;
    if (options.window->right.has_value() && j - i > *options.window->right) return kForbidden;
  }
  if (!mask.has_value()) return 0.0L;
  const std::int64_t full[] = {batch, head, i, j};
  std::int64_t flat = 0;
  for (std::size_t axis = 0; axis < mask->shape.size(); ++axis) {
    const std::int64_t index = full[4 - mask->shape.size() + axis];
    flat = flat * mask->shape[axis] + (mask->shape[axis] == 1 ? 0 : index);
  }
  const double value = mask->values[flat];
  if (problem.mask->dtype == DType::kBool) return value != 0.0 ? 0.0L : kForbidden;
  return value;
}

}  // namespace

Arrays DenseOracle(const Problem& problem) {
  const ProblemCase& c = problem.shape;
  Arrays in = problem.Values();
  const std::vector<std::int64_t> q_shape = {c.batch, c.heads_q, c.seq_q, c.head_dim};
  const std::vector<std::int64_t> k_shape = {c.batch, c.heads_kv, c.seq_kv, c.head_dim};
  const std::vector<std::int64_t> v_shape = {c.batch, c.heads_kv, c.seq_kv, c.head_dim_v};
  const std::vector<std::int64_t> o_shape = {c.batch, c.heads_q, c.seq_q, c.head_dim_v};
  const std::vector<std::int64_t> lse_shape = {c.batch, c.heads_q, c.seq_q};
  for (const auto& [name, shape] : {std::pair{"o_bar", o_shape},
                                    {"q_dot", q_shape},
                                    {"k_dot", k_shape},
                                    {"v_dot", v_shape},
                                    {"o_bar_dot", o_shape}}) {
    in.try_emplace(name, Zeros(shape));
  }
  Arrays out = {{"o", Zeros(o_shape)},         {"lse", Zeros(lse_shape)},
                {"o_dot", Zeros(o_shape)},     {"lse_dot", Zeros(lse_shape)},
                {"q_bar", Zeros(q_shape)},     {"k_bar", Zeros(k_shape)},
                {"v_bar", Zeros(v_shape)},     {"q_bar_dot", Zeros(q_shape)},
                {"k_bar_dot", Zeros(k_shape)}, {"v_bar_dot", Zeros(v_shape)}};
  std::optional<Array> mask;
  if (problem.mask.has_value()) mask = Decode(*problem.mask);
  const DropoutMod dropout = MakeDropoutMod(c.options.dropout.probability, c.options.dropout.seed,
                                            c.options.dropout.offset);
  const Number scale = c.options.scale.value_or(1.0 / std::sqrt(static_cast<double>(c.head_dim)));

  for (std::int64_t b = 0; b < c.batch; ++b) {
    for (std::int64_t h = 0; h < c.heads_q; ++h) {
      const std::int64_t h_kv = h / (c.heads_q / c.heads_kv);
      const Matrix q = Plane(in["q"], b, h), q_dot = Plane(in["q_dot"], b, h);
      const Matrix k = Plane(in["k"], b, h_kv), k_dot = Plane(in["k_dot"], b, h_kv);
      const Matrix v = Plane(in["v"], b, h_kv), v_dot = Plane(in["v_dot"], b, h_kv);
      const Matrix o_bar = Plane(in["o_bar"], b, h), o_bar_dot = Plane(in["o_bar_dot"], b, h);

      Matrix s = scale * (q * Transpose(k));
      Matrix z(c.seq_q, c.seq_kv);
      Matrix p(c.seq_q, c.seq_kv);
      Matrix lse(c.seq_q, 1);
      for (std::int64_t i = 0; i < c.seq_q; ++i) {
        Number largest = -std::numeric_limits<Number>::infinity();
        for (std::int64_t j = 0; j < c.seq_kv; ++j) {
          s(i, j) += Bias(problem, mask, b, h, i, j);
          largest = std::max(largest, s(i, j));
          const bool keeps = !dropout.enabled() ||
                             dropout.Keeps(static_cast<std::uint64_t>(b * c.heads_q + h), i, j);
          z(i, j) = keeps ? dropout.keep_scale : 0.0;
        }
        Number sum = 0.0L;
        for (std::int64_t j = 0; j < c.seq_kv; ++j) {
          p(i, j) = std::isinf(s(i, j)) ? 0.0L : std::exp(s(i, j) - largest);
          sum += p(i, j);
        }
        lse(i, 0) = largest + std::log(sum);
        for (std::int64_t j = 0; j < c.seq_kv && sum != 0.0L; ++j) p(i, j) /= sum;
      }

      const Matrix o = (p % z) * v;
      const Matrix s_dot = scale * (q_dot * Transpose(k) + q * Transpose(k_dot));
      const Matrix mu = RowSum(p % s_dot);
      const Matrix p_dot = p % MinusColumn(s_dot, mu);
      const Matrix o_dot = (p_dot % z) * v + (p % z) * v_dot;

      const Matrix p_bar = (o_bar * Transpose(v)) % z;
      const Matrix delta = RowSum(o_bar % o);
      const Matrix s_bar = p % MinusColumn(p_bar, delta);

      const Matrix p_bar_dot = (o_bar_dot * Transpose(v) + o_bar * Transpose(v_dot)) % z;
      const Matrix delta_dot = RowSum(o_bar_dot % o + o_bar % o_dot);
      const Matrix s_bar_dot =
          s_bar % MinusColumn(s_dot, mu) + p % MinusColumn(p_bar_dot, delta_dot);

      AddPlane(o, b, h, out["o"]);
      AddPlane(lse, b, h, out["lse"]);
      AddPlane(o_dot, b, h, out["o_dot"]);
      AddPlane(mu, b, h, out["lse_dot"]);
      AddPlane(scale * (s_bar * k), b, h, out["q_bar"]);
      AddPlane(scale * (Transpose(s_bar) * q), b, h_kv, out["k_bar"]);
      AddPlane(Transpose(p % z) * o_bar, b, h_kv, out["v_bar"]);
      AddPlane(scale * (s_bar_dot * k + s_bar * k_dot), b, h, out["q_bar_dot"]);
      AddPlane(scale * (Transpose(s_bar_dot) * q + Transpose(s_bar) * q_dot), b, h_kv,
               out["k_bar_dot"]);
      AddPlane(Transpose(p_dot % z) * o_bar + Transpose(p % z) * o_bar_dot, b, h_kv,
               out["v_bar_dot"]);
    }
  }
  return out;
}

}  // namespace theria::conformance
