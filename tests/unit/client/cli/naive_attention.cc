#include "tests/unit/client/cli/naive_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "client/cli/parity/problem.h"

namespace theria::cli {
namespace {

using client::AnyTensor;
using client::AttentionRequest;
using client::AttentionResult;
using client::DType;
using client::Operation;
using client::Shape;
using client::Tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A dense row-major array [batch, heads, rows, columns].
struct Array {
  Shape shape;
  std::vector<double> values;

  explicit Array(Shape extents)
      : shape(std::move(extents)), values(static_cast<std::size_t>(client::NumElements(shape))) {}
  double& operator()(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
    return values[static_cast<std::size_t>(((b * shape[1] + h) * shape[2] + i) * shape[3] + j)];
  }
};

class Computation {
 public:
  Computation(const AttentionRequest& request, Defect defect)
      : request_(request),
        options_(request.options),
        defect_(defect),
        q_(Read(request.q)),
        k_(Read(request.k)),
        v_(Read(request.v)),
        o_shape_({q_.shape[0], q_.shape[1], q_.shape[2], v_.shape[3]}),
        lse_shape_({q_.shape[0], q_.shape[1], q_.shape[2], 1}),
        o_bar_(ReadOr(request.o_bar, o_shape_)),
        q_dot_(ReadOr(request.q_dot, q_.shape)),
        k_dot_(ReadOr(request.k_dot, k_.shape)),
        v_dot_(ReadOr(request.v_dot, v_.shape)),
        o_bar_dot_(
            ReadOr(defect == Defect::kDropsObarDot ? AnyTensor() : request.o_bar_dot, o_shape_)),
        o_(o_shape_),
        o_dot_(o_shape_),
        lse_(lse_shape_),
        lse_dot_(lse_shape_),
        q_bar_(q_.shape),
        k_bar_(k_.shape),
        v_bar_(v_.shape),
        q_bar_dot_(q_.shape),
        k_bar_dot_(k_.shape),
        v_bar_dot_(v_.shape) {
    scale_ = options_.scale.value_or(1.0 / std::sqrt(static_cast<double>(q_.shape[3])));
    if (defect_ == Defect::kIgnoresScale) {
      scale_ = 1.0 / std::sqrt(static_cast<double>(q_.shape[3]));
    }
    if (options_.mask.has_value() && defect_ != Defect::kLosesMask) {
      mask_ = options_.mask.local()
                  .BroadcastTo({q_.shape[0], q_.shape[1], q_.shape[2], k_.shape[2]})
                  .ToDoubles();
    }
  }

  AttentionResult Run(Operation operation) {
    for (std::int64_t b = 0; b < q_.shape[0]; ++b) {
      for (std::int64_t h = 0; h < q_.shape[1]; ++h) {
        for (std::int64_t i = 0; i < q_.shape[2]; ++i) Row(b, h, i);
      }
    }
    if (defect_ == Defect::kOneWrongElement) {
      double largest = 0.0;
      for (double value : k_bar_.values) largest = std::max(largest, std::fabs(value));
      k_bar_.values.back() += 0.01 * largest;
    }
    AttentionResult result;
    const std::pair<AnyTensor AttentionResult::*, const Array*> outputs[] = {
        {&AttentionResult::o, &o_},
        {&AttentionResult::lse, &lse_},
        {&AttentionResult::o_dot, &o_dot_},
        {&AttentionResult::lse_dot, &lse_dot_},
        {&AttentionResult::q_bar, &q_bar_},
        {&AttentionResult::k_bar, &k_bar_},
        {&AttentionResult::v_bar, &v_bar_},
        {&AttentionResult::q_bar_dot, &q_bar_dot_},
        {&AttentionResult::k_bar_dot, &k_bar_dot_},
        {&AttentionResult::v_bar_dot, &v_bar_dot_}};
    const DType dtype = request_.q.local().dtype();
    for (std::size_t i = 0; i < std::size(outputs); ++i) {
      if (!Produces(operation, client::kOutputFields[i].name)) continue;
      const bool is_statistic = outputs[i].second == &lse_ || outputs[i].second == &lse_dot_;
      Shape shape = outputs[i].second->shape;
      if (is_statistic) shape.pop_back();
      result.*outputs[i].first =
          Tensor::FromDoubles(is_statistic ? client::StatisticsDType(dtype) : dtype,
                              outputs[i].second->values, std::move(shape));
    }
    return result;
  }

 private:
  Array Read(const AnyTensor& tensor) const {
    const Tensor& local = tensor.local();
    Array array(local.shape());
    const bool blind =
        defect_ == Defect::kIgnoresStrides && local.span_bytes() == local.size_bytes();
    array.values =
        (blind ? Tensor::Borrow(local.dtype(), local.data(), local.shape()) : local).ToDoubles();
    return array;
  }

  Array ReadOr(const AnyTensor& tensor, const Shape& shape) const {
    return tensor.has_value() ? Read(tensor) : Array(shape);
  }

  bool Sees(std::int64_t i, std::int64_t j) const {
    if (options_.is_causal && defect_ != Defect::kIgnoresCausal && j > i) return false;
    if (!options_.window.has_value()) return true;
    return (!options_.window->left || j >= i - *options_.window->left) &&
           (!options_.window->right || j <= i + *options_.window->right);
  }

  double MaskOf(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    if (mask_.empty()) return 0.0;
    const double value = mask_[static_cast<std::size_t>(
        ((b * q_.shape[1] + h) * q_.shape[2] + i) * k_.shape[2] + j)];
    if (options_.mask.local().dtype() != DType::kBool) return value;
    return value != 0.0 ? 0.0 : -kInfinity;
  }

  // The dropout matrix: a hash of the indices, so that all calls see the same.
  double Keep(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    const double p = options_.dropout.probability;
    if (p == 0.0 || defect_ == Defect::kIgnoresDropout) return 1.0;
    std::uint64_t bits = options_.dropout.seed;
    for (const std::int64_t index : {b, h, i, j}) {
      bits = (bits ^ static_cast<std::uint64_t>(index)) * 0x9e3779b97f4a7c15u;
      bits ^= bits >> 29;
    }
    return static_cast<double>(bits >> 11) * 0x1p-53 < p ? 0.0 : 1.0 / (1.0 - p);
  }

  static double Dot(Array& a, std::int64_t ha, std::int64_t i, Array& b, std::int64_t hb,
                    std::int64_t j, std::int64_t batch) {
    double sum = 0.0;
    for (std::int64_t c = 0; c < a.shape[3]; ++c) sum += a(batch, ha, i, c) * b(batch, hb, j, c);
    return sum;
  }

  // All outputs that row i of head h contributes to; the names are those of the contract.
  void Row(std::int64_t b, std::int64_t h, std::int64_t i) {
    const std::int64_t kv =
        defect_ == Defect::kTransposesGroups ? h % k_.shape[1] : h / (q_.shape[1] / k_.shape[1]);
    const std::int64_t n = k_.shape[2];
    std::vector<double> p(n), s_dot(n), z(n);
    double largest = -kInfinity;
    for (std::int64_t j = 0; j < n; ++j) {
      p[j] = Sees(i, j) ? scale_ * Dot(q_, h, i, k_, kv, j, b) + MaskOf(b, h, i, j) : -kInfinity;
      largest = std::max(largest, p[j]);
      s_dot[j] = scale_ * (Dot(q_dot_, h, i, k_, kv, j, b) + Dot(q_, h, i, k_dot_, kv, j, b));
      z[j] = Keep(b, h, i, j);
    }
    if (largest == -kInfinity) {
      lse_(b, h, i, 0) = -kInfinity;
      if (defect_ == Defect::kNaNInEmptyRows) o_(b, h, i, 0) = std::nan("");
      return;
    }
    double sum = 0.0;
    for (double& score : p) sum += score = std::exp(score - largest);
    for (double& probability : p) probability /= sum;
    lse_(b, h, i, 0) = largest + std::log(sum);

    double mu = 0.0;
    for (std::int64_t j = 0; j < n; ++j) mu += p[j] * s_dot[j];
    if (defect_ == Defect::kFrozenStatistics) mu = 0.0;
    lse_dot_(b, h, i, 0) = mu;

    const std::int64_t columns = v_.shape[3];
    for (std::int64_t j = 0; j < n; ++j) {
      const double p_dot = p[j] * (s_dot[j] - mu);
      for (std::int64_t c = 0; c < columns; ++c) {
        o_(b, h, i, c) += p[j] * z[j] * v_(b, kv, j, c);
        o_dot_(b, h, i, c) += p_dot * z[j] * v_(b, kv, j, c) + p[j] * z[j] * v_dot_(b, kv, j, c);
      }
    }
    double delta = 0.0;
    double delta_dot = 0.0;
    for (std::int64_t c = 0; c < columns; ++c) {
      delta += o_bar_(b, h, i, c) * o_(b, h, i, c);
      delta_dot +=
          o_bar_dot_(b, h, i, c) * o_(b, h, i, c) + o_bar_(b, h, i, c) * o_dot_(b, h, i, c);
    }
    for (std::int64_t j = 0; j < n; ++j) {
      const double p_dot = p[j] * (s_dot[j] - mu);
      const double p_bar = Dot(o_bar_, h, i, v_, kv, j, b) * z[j];
      const double p_bar_dot =
          (Dot(o_bar_dot_, h, i, v_, kv, j, b) + Dot(o_bar_, h, i, v_dot_, kv, j, b)) * z[j];
      const double s_bar = p[j] * (p_bar - delta);
      const double s_bar_dot = p_dot * (p_bar - delta) + p[j] * (p_bar_dot - delta_dot);
      for (std::int64_t c = 0; c < q_.shape[3]; ++c) {
        q_bar_(b, h, i, c) += scale_ * s_bar * k_(b, kv, j, c);
        k_bar_(b, kv, j, c) += scale_ * s_bar * q_(b, h, i, c);
        q_bar_dot_(b, h, i, c) +=
            scale_ * (s_bar_dot * k_(b, kv, j, c) + s_bar * k_dot_(b, kv, j, c));
        k_bar_dot_(b, kv, j, c) +=
            scale_ * (s_bar_dot * q_(b, h, i, c) + s_bar * q_dot_(b, h, i, c));
      }
      for (std::int64_t c = 0; c < columns; ++c) {
        v_bar_(b, kv, j, c) += p[j] * z[j] * o_bar_(b, h, i, c);
        v_bar_dot_(b, kv, j, c) +=
            p_dot * z[j] * o_bar_(b, h, i, c) + p[j] * z[j] * o_bar_dot_(b, h, i, c);
      }
    }
  }

  const AttentionRequest& request_;
  const client::AttentionOptions& options_;
  const Defect defect_;
  double scale_ = 0.0;
  std::vector<double> mask_;
  Array q_, k_, v_;
  const Shape o_shape_, lse_shape_;
  Array o_bar_, q_dot_, k_dot_, v_dot_, o_bar_dot_;
  Array o_, o_dot_, lse_, lse_dot_;
  Array q_bar_, k_bar_, v_bar_, q_bar_dot_, k_bar_dot_, v_bar_dot_;
};

}  // namespace

absl::StatusOr<AttentionResult> NaiveAttention::Run(Operation operation,
                                                    const AttentionRequest& request,
                                                    const client::CallOptions&) {
  return Computation(request, defect_).Run(operation);
}

client::ServerInfo NaiveAttention::Info(client::Implementation implementation) {
  client::ServerInfo info;
  for (const Operation operation :
       {Operation::kForward, Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
    for (const DType dtype :
         {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      info.kernels.push_back({.operation = operation,
                              .implementation = implementation,
                              .dtype = dtype,
                              .min_head_dim = 1,
                              .max_head_dim = 512,
                              .head_dim_multiple = 1});
    }
  }
  return info;
}

}  // namespace theria::cli
