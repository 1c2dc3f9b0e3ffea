#include "tests/conformance/dense_oracle.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/api/score_mod.h"

namespace theria::conformance {
namespace {

template <typename Number>
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<Number> elements;

  Matrix(std::int64_t r, std::int64_t c) : rows(r), columns(c), elements(r * c, Number{0}) {}
  Number& operator()(std::int64_t r, std::int64_t c) { return elements[r * columns + c]; }
  Number operator()(std::int64_t r, std::int64_t c) const { return elements[r * columns + c]; }
};

template <typename Number, typename Function>
Matrix<Number> Each(const Matrix<Number>& a, const Matrix<Number>& b, Function f) {
  Matrix<Number> result(a.rows, a.columns);
  for (std::size_t i = 0; i < a.elements.size(); ++i) {
    result.elements[i] = f(a.elements[i], b.elements[i]);
  }
  return result;
}

template <typename Number>
Matrix<Number> operator+(const Matrix<Number>& a, const Matrix<Number>& b) {
  return Each(a, b, std::plus<>());
}
template <typename Number>
Matrix<Number> operator%(const Matrix<Number>& a, const Matrix<Number>& b) {
  return Each(a, b, std::multiplies<>());
}
template <typename Number>
Matrix<Number> Times(Number factor, const Matrix<Number>& a) {
  return Each(a, a, [&](Number x, Number) { return factor * x; });
}

// a b^T: every pair's inner product.
template <typename Number>
Matrix<Number> OfPairs(const Matrix<Number>& a, const Matrix<Number>& b) {
  Matrix<Number> result(a.rows, b.rows);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t c = 0; c < b.rows; ++c) {
      for (std::int64_t p = 0; p < a.columns; ++p) result(r, c) += a(r, p) * b(c, p);
    }
  }
  return result;
}

// [rows, 1]
template <typename Number>
Matrix<Number> RowSum(const Matrix<Number>& a) {
  Matrix<Number> result(a.rows, 1);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t c = 0; c < a.columns; ++c) result(r, 0) += a(r, c);
  }
  return result;
}

// a - column, the column repeated
template <typename Number>
Matrix<Number> MinusColumn(const Matrix<Number>& a, const Matrix<Number>& column) {
  Matrix<Number> result = a;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t c = 0; c < a.columns; ++c) result(r, c) -= column(r, 0);
  }
  return result;
}

template <typename Number>
Matrix<Number> PlusColumn(const Matrix<Number>& a, const Matrix<Number>& column) {
  Matrix<Number> result = a;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t c = 0; c < a.columns; ++c) result(r, c) += column(r, 0);
  }
  return result;
}

// Which pairs of a row and a key take part. Sums over score-shaped matrices skip all other pairs,
// so the matrices may hold anything there.
struct Pairs {
  std::int64_t rows;
  std::int64_t keys;
  std::vector<bool> take_part;

  Pairs(std::int64_t r, std::int64_t k) : rows(r), keys(k), take_part(r * k) {}
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < keys; ++j) {
        if (take_part[i * keys + j]) visit(i, j);
      }
    }
  }

  // weights x: for each row a sum over its keys
  template <typename Number>
  Matrix<Number> ToRows(const Matrix<Number>& weights, const Matrix<Number>& x) const {
    Matrix<Number> result(rows, x.columns);
    ForEach([&](std::int64_t i, std::int64_t j) {
      for (std::int64_t c = 0; c < x.columns; ++c) result(i, c) += weights(i, j) * x(j, c);
    });
    return result;
  }
  // weights^T x: for each key a sum over its rows
  template <typename Number>
  Matrix<Number> ToKeys(const Matrix<Number>& weights, const Matrix<Number>& x) const {
    Matrix<Number> result(keys, x.columns);
    ForEach([&](std::int64_t i, std::int64_t j) {
      for (std::int64_t c = 0; c < x.columns; ++c) result(j, c) += weights(i, j) * x(i, c);
    });
    return result;
  }
  // [rows, 1]
  template <typename Number>
  Matrix<Number> SumOfRow(const Matrix<Number>& a) const {
    Matrix<Number> result(rows, 1);
    ForEach([&](std::int64_t i, std::int64_t j) { result(i, 0) += a(i, j); });
    return result;
  }
};

template <typename Number>
Matrix<Number> Plane(const Array& array, std::int64_t batch, std::int64_t head) {
  const std::int64_t rows = array.shape[2];
  const std::int64_t columns = array.shape[3];
  Matrix<Number> result(rows, columns);
  const std::int64_t first = (batch * array.shape[1] + head) * rows * columns;
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    result.elements[i] = static_cast<Number>(array.values[first + i]);
  }
  return result;
}

// The rows of a head of [batch, heads, rows], as a column.
template <typename Number>
Matrix<Number> Column(const Array& array, std::int64_t batch, std::int64_t head) {
  Matrix<Number> result(array.shape[2], 1);
  const std::int64_t first = (batch * array.shape[1] + head) * result.rows;
  for (std::int64_t i = 0; i < result.rows; ++i) {
    result.elements[i] = static_cast<Number>(array.values[first + i]);
  }
  return result;
}

template <typename Number>
void AddPlane(const Matrix<Number>& plane, std::int64_t batch, std::int64_t head, Array& array) {
  const std::int64_t first = (batch * array.shape[1] + head) * plane.rows * plane.columns;
  for (std::size_t i = 0; i < plane.elements.size(); ++i) {
    array.values[first + i] += static_cast<double>(plane.elements[i]);
  }
}

// What rounding to `dtype` leaves.
template <typename Number>
Matrix<Number> Rounded(const Matrix<Number>& a, DType dtype) {
  if (dtype == DType::kFloat64) return a;
  Array array = Zeros({a.rows, a.columns});
  std::copy(a.elements.begin(), a.elements.end(), array.values.begin());
  Matrix<Number> result = a;
  const Array rounded = RoundTo(array, dtype);
  std::copy(rounded.values.begin(), rounded.values.end(), result.elements.begin());
  return result;
}

constexpr double kForbidden = -std::numeric_limits<double>::infinity();

// The element of a tensor that broadcasts to [batch, heads_q, seq_q, seq_kv].
std::int64_t BroadcastIndex(const std::vector<std::int64_t>& shape, std::int64_t batch,
                            std::int64_t head, std::int64_t i, std::int64_t j) {
  const std::int64_t full[] = {batch, head, i, j};
  std::int64_t flat = 0;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    const std::int64_t index = full[4 - shape.size() + axis];
    flat = flat * shape[axis] + (shape[axis] == 1 ? 0 : index);
  }
  return flat;
}

// What the options say about a pair, by the words of the contract.
class PairRules {
 public:
  explicit PairRules(const Problem& problem) : problem_(problem) {
    if (problem.mask.has_value()) mask_ = Decode(*problem.mask);
    for (const auto& [name, tensor] : problem.option_tensors) options_[name] = Decode(tensor);
  }

  // B: what is added to the scaled and capped score, -inf for a pair that takes no part.
  double Bias(std::int64_t batch, std::int64_t head, std::int64_t i, std::int64_t j) const {
    const ProblemCase& c = problem_.shape;
    if (Has("kv_lengths") && j >= At("kv_lengths", batch)) return kForbidden;
    // Row, key and lengths within the document.
    std::int64_t row = i, key = j, rows = c.seq_q, keys = c.seq_kv;
    if (Has("cu_seqlens_q")) {
      const std::int64_t document = DocumentOf("cu_seqlens_q", i);
      if (DocumentOf("cu_seqlens_kv", j) != document) return kForbidden;
      row -= At("cu_seqlens_q", document);
      key -= At("cu_seqlens_kv", document);
      rows = At("cu_seqlens_q", document + 1) - At("cu_seqlens_q", document);
      keys = At("cu_seqlens_kv", document + 1) - At("cu_seqlens_kv", document);
    }
    if (c.options.causal_alignment == CausalAlignment::kLowerRight) row += keys - rows;
    if (c.options.is_causal && key > row) return kForbidden;
    if (const auto& window = c.options.window; window.has_value()) {
      if (window->left.has_value() && row - key > *window->left) return kForbidden;
      if (window->right.has_value() && key - row > *window->right) return kForbidden;
    }
    double bias = 0.0;
    if (mask_.has_value()) {
      const double value = mask_->values[BroadcastIndex(mask_->shape, batch, head, i, j)];
      bias = problem_.mask->dtype != DType::kBool ? value : value != 0.0 ? 0.0 : kForbidden;
    }
    if (bias != kForbidden && Has("alibi_slopes")) {
      const bool by_batch = options_.at("alibi_slopes").shape.size() == 2;
      const double slope =
          options_.at("alibi_slopes").values[(by_batch ? batch * c.heads_q : 0) + head];
      bias -= slope * static_cast<double>(std::abs(row - key));
    }
    return bias;
  }

 private:
  bool Has(const std::string& option) const { return options_.count(option) != 0; }
  std::int64_t At(const std::string& option, std::int64_t index) const {
    return static_cast<std::int64_t>(options_.at(option).values[index]);
  }
  std::int64_t DocumentOf(const std::string& offsets, std::int64_t index) const {
    std::int64_t document = 0;
    while (At(offsets, document + 1) <= index) ++document;
    return document;
  }

  const Problem& problem_;
  std::optional<Array> mask_;
  std::map<std::string, Array> options_;
};

// `factors` is the dtype that the factors of the products after the softmax are rounded to.
template <typename Number>
Arrays Compute(const Problem& problem, DType factors) {
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
                                    {"o_bar_dot", o_shape},
                                    {"lse_bar", lse_shape},
                                    {"lse_bar_dot", lse_shape}}) {
    in.try_emplace(name, Zeros(shape));
  }
  Arrays out = {{"o", Zeros(o_shape)},         {"lse", Zeros(lse_shape)},
                {"o_dot", Zeros(o_shape)},     {"lse_dot", Zeros(lse_shape)},
                {"q_bar", Zeros(q_shape)},     {"k_bar", Zeros(k_shape)},
                {"v_bar", Zeros(v_shape)},     {"q_bar_dot", Zeros(q_shape)},
                {"k_bar_dot", Zeros(k_shape)}, {"v_bar_dot", Zeros(v_shape)}};
  const PairRules rules(problem);
  if (problem.has_bias()) {
    in.try_emplace("bias_dot", Zeros(problem.mask->shape));
    out["bias_bar"] = out["bias_bar_dot"] = Zeros(problem.mask->shape);
  }
  const DropoutMod dropout = MakeDropoutMod(c.options.dropout.probability, c.options.dropout.seed,
                                            c.options.dropout.offset);
  const double default_scale =
      c.head_dim == 0 ? 1.0 : 1.0 / std::sqrt(static_cast<double>(c.head_dim));
  const auto scale = static_cast<Number>(c.options.scale.value_or(default_scale));

  for (std::int64_t b = 0; b < c.batch; ++b) {
    for (std::int64_t h = 0; h < c.heads_q; ++h) {
      const std::int64_t h_kv = h / (c.heads_q / c.heads_kv);
      const auto plane = [&](const char* name, std::int64_t head) {
        return Plane<Number>(in.at(name), b, head);
      };
      const Matrix<Number> q = plane("q", h), q_dot = plane("q_dot", h);
      const Matrix<Number> k = plane("k", h_kv), k_dot = plane("k_dot", h_kv);
      const Matrix<Number> v = plane("v", h_kv), v_dot = plane("v_dot", h_kv);
      const Matrix<Number> o_bar = plane("o_bar", h), o_bar_dot = plane("o_bar_dot", h);

      const auto column = [&](const char* name) { return Column<Number>(in.at(name), b, h); };

      Matrix<Number> s = Times(scale, OfPairs(q, k));
      // t, and dS/dU
      Matrix<Number> t(c.seq_q, c.seq_kv);
      Matrix<Number> w = Times(Number{0}, t);
      for (Number& x : w.elements) x = Number{1};
      if (c.options.softcap.has_value()) {
        const auto cap = static_cast<Number>(*c.options.softcap);
        t = Each(s, s, [&](Number x, Number) { return std::tanh(x / cap); });
        w = Each(t, t, [&](Number x, Number) { return Number{1} - x * x; });
        s = Times(cap, t);
      }
      Matrix<Number> bias_dot(c.seq_q, c.seq_kv);
      Matrix<Number> z(c.seq_q, c.seq_kv);
      Pairs pairs(c.seq_q, c.seq_kv);
      Matrix<Number> largest(c.seq_q, 1);
      for (std::int64_t i = 0; i < c.seq_q; ++i) {
        largest(i, 0) = -std::numeric_limits<Number>::infinity();
        for (std::int64_t j = 0; j < c.seq_kv; ++j) {
          const bool keeps = !dropout.enabled() ||
                             dropout.Keeps(static_cast<std::uint64_t>(b * c.heads_q + h), i, j);
          z(i, j) = static_cast<Number>(keeps ? dropout.keep_scale : 0.0);
          const double bias = rules.Bias(b, h, i, j);
          if (bias == kForbidden) continue;
          if (problem.has_bias()) {
            const Array& tangent = in.at("bias_dot");
            bias_dot(i, j) =
                static_cast<Number>(tangent.values[BroadcastIndex(tangent.shape, b, h, i, j)]);
          }
          pairs.take_part[i * c.seq_kv + j] = true;
          s(i, j) += static_cast<Number>(bias);
          largest(i, 0) = std::max(largest(i, 0), s(i, j));
        }
      }
      const Matrix<Number> e = [&] {
        Matrix<Number> result = MinusColumn(s, largest);
        for (Number& x : result.elements) x = std::exp(x);
        return result;
      }();
      const Matrix<Number> sum = pairs.SumOfRow(e);
      Matrix<Number> lse(c.seq_q, 1);
      Matrix<Number> p(c.seq_q, c.seq_kv);
      for (std::int64_t i = 0; i < c.seq_q; ++i) lse(i, 0) = largest(i, 0) + std::log(sum(i, 0));
      pairs.ForEach([&](std::int64_t i, std::int64_t j) { p(i, j) = e(i, j) / sum(i, 0); });
      const auto factor = [&](const Matrix<Number>& a) { return Rounded(a, factors); };

      const Matrix<Number> pz = factor(p % z);
      const Matrix<Number> o = pairs.ToRows(pz, v);
      const Matrix<Number> u_dot = Times(scale, OfPairs(q_dot, k) + OfPairs(q, k_dot));
      const Matrix<Number> s_dot = w % u_dot + bias_dot;
      const Matrix<Number> mu = pairs.SumOfRow(p % s_dot);
      const Matrix<Number> p_dot = p % MinusColumn(s_dot, mu);
      const Matrix<Number> p_dot_z = factor(p_dot % z);
      const Matrix<Number> o_dot = pairs.ToRows(p_dot_z, v) + pairs.ToRows(pz, v_dot);

      const Matrix<Number> p_bar = OfPairs(o_bar, v) % z;
      const Matrix<Number> delta = RowSum(o_bar % factor(o));
      const Matrix<Number> s_bar = p % PlusColumn(MinusColumn(p_bar, delta), column("lse_bar"));

      const Matrix<Number> p_bar_dot = (OfPairs(o_bar_dot, v) + OfPairs(o_bar, v_dot)) % z;
      const Matrix<Number> delta_dot = RowSum(o_bar_dot % factor(o) + o_bar % factor(o_dot));
      const Matrix<Number> s_bar_dot =
          s_bar % MinusColumn(s_dot, mu) +
          p % PlusColumn(MinusColumn(p_bar_dot, delta_dot), column("lse_bar_dot"));
      // dw/dU = -(2 / c) t w
      const auto bend = static_cast<Number>(-2.0 / c.options.softcap.value_or(1.0));
      const Matrix<Number> u_bar = factor(w % s_bar);
      const Matrix<Number> u_bar_dot = factor(w % s_bar_dot + Times(bend, t % w % u_dot % s_bar));
      if (problem.has_bias()) {
        pairs.ForEach([&](std::int64_t i, std::int64_t j) {
          const std::int64_t at = BroadcastIndex(problem.mask->shape, b, h, i, j);
          out["bias_bar"].values[at] += static_cast<double>(s_bar(i, j));
          out["bias_bar_dot"].values[at] += static_cast<double>(s_bar_dot(i, j));
        });
      }

      AddPlane(o, b, h, out["o"]);
      AddPlane(lse, b, h, out["lse"]);
      AddPlane(o_dot, b, h, out["o_dot"]);
      AddPlane(mu, b, h, out["lse_dot"]);
      AddPlane(Times(scale, pairs.ToRows(u_bar, k)), b, h, out["q_bar"]);
      AddPlane(Times(scale, pairs.ToKeys(u_bar, q)), b, h_kv, out["k_bar"]);
      AddPlane(pairs.ToKeys(pz, o_bar), b, h_kv, out["v_bar"]);
      AddPlane(Times(scale, pairs.ToRows(u_bar_dot, k) + pairs.ToRows(u_bar, k_dot)), b, h,
               out["q_bar_dot"]);
      AddPlane(Times(scale, pairs.ToKeys(u_bar_dot, q) + pairs.ToKeys(u_bar, q_dot)), b, h_kv,
               out["k_bar_dot"]);
      AddPlane(pairs.ToKeys(p_dot_z, o_bar) + pairs.ToKeys(pz, o_bar_dot), b, h_kv,
               out["v_bar_dot"]);
    }
  }
  return out;
}

}  // namespace

Arrays DenseOracle(const Problem& problem) {
  return Compute<long double>(problem, DType::kFloat64);
}

Arrays ExplicitMath(const Problem& problem, DType arithmetic) {
  if (arithmetic == DType::kFloat64) return Compute<double>(problem, arithmetic);
  return Compute<float>(problem, arithmetic);
}

}  // namespace theria::conformance
