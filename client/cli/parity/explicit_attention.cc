#include "client/cli/parity/explicit_attention.h"

#include <cstdint>
#include <string_view>
#include <vector>

#include "client/cli/parity/dense_head.h"
#include "client/cli/parity/dense_matrix.h"
#include "client/cli/parity/problem.h"
#include "client/cli/parity/score_rules.h"

namespace theria::cli {
namespace {

using client::AnyTensor;
using client::AttentionRequest;
using client::AttentionResult;
using client::DType;
using client::Operation;

bool HasBias(const AttentionRequest& request) {
  return request.options.mask.has_value() &&
         client::IsFloatingPoint(request.options.mask.local().dtype());
}

template <typename Real>
class Computation {
 public:
  Computation(Operation operation, const AttentionRequest& request, DType rounded_to,
              SumOrder order)
      : operation_(operation),
        rules_(request),
        rounded_to_(rounded_to),
        order_(order),
        q_(request.q),
        k_(request.k),
        v_(request.v),
        o_bar_(request.o_bar),
        q_dot_(request.q_dot),
        k_dot_(request.k_dot),
        v_dot_(request.v_dot),
        o_bar_dot_(request.o_bar_dot),
        lse_bar_(request.lse_bar),
        lse_bar_dot_(request.lse_bar_dot),
        o_({q_.shape[0], q_.shape[1], q_.shape[2], v_.shape[3]}),
        lse_({q_.shape[0], q_.shape[1], q_.shape[2], 1}),
        o_dot_(o_.shape),
        lse_dot_(lse_.shape),
        q_bar_(q_.shape),
        k_bar_(k_.shape),
        v_bar_(v_.shape),
        q_bar_dot_(q_.shape),
        k_bar_dot_(k_.shape),
        v_bar_dot_(v_.shape) {
    if (HasBias(request)) {
      bias_shape_ = request.options.mask.local().shape();
      const client::Shape scores = {q_.shape[0], q_.shape[1], q_.shape[2], k_.shape[2]};
      if (request.bias_dot.has_value()) {
        bias_dot_ = Planes<Real>(request.bias_dot.local().BroadcastTo(scores));
      }
      const auto elements = static_cast<std::size_t>(client::NumElements(bias_shape_));
      bias_bar_.resize(elements);
      bias_bar_dot_.resize(elements);
    }
    for (std::int64_t b = 0; b < q_.shape[0]; ++b) {
      for (std::int64_t h = 0; h < q_.shape[1]; ++h) ComputeHead(b, h);
    }
  }

  AttentionResult Result(DType dtype, DType bias_dtype) const {
    AttentionResult result;
    const auto store = [&](std::string_view name, AnyTensor& to, const Planes<Real>& from) {
      if (!Produces(operation_, name)) return;
      const bool is_statistic = &from == &lse_ || &from == &lse_dot_;
      to = from.ToTensor(is_statistic ? client::StatisticsDType(dtype) : dtype, is_statistic);
    };
    store("o", result.o, o_);
    store("lse", result.lse, lse_);
    store("o_dot", result.o_dot, o_dot_);
    store("lse_dot", result.lse_dot, lse_dot_);
    store("q_bar", result.q_bar, q_bar_);
    store("k_bar", result.k_bar, k_bar_);
    store("v_bar", result.v_bar, v_bar_);
    store("q_bar_dot", result.q_bar_dot, q_bar_dot_);
    store("k_bar_dot", result.k_bar_dot, k_bar_dot_);
    store("v_bar_dot", result.v_bar_dot, v_bar_dot_);
    const auto store_bias = [&](std::string_view name, AnyTensor& to,
                                const std::vector<Real>& from) {
      if (bias_bar_.empty() || !Produces(operation_, name)) return;
      const std::vector<double> doubles(from.begin(), from.end());
      to = client::Tensor::FromDoubles(bias_dtype, doubles, bias_shape_);
    };
    store_bias("bias_bar", result.bias_bar, bias_bar_);
    store_bias("bias_bar_dot", result.bias_bar_dot, bias_bar_dot_);
    return result;
  }

 private:
  // The matrix of a head, or an empty one for an absent tensor.
  static const Matrix<Real>& Plane(Planes<Real>& planes, std::int64_t b, std::int64_t h) {
    static const Matrix<Real> absent;
    return planes.empty() ? absent : planes.At(b, h);
  }

  // Adds a head's matrix of scores to a tensor of the bias's shape, over which it is broadcast.
  void AddToBias(const Matrix<Real>& scores, std::int64_t b, std::int64_t h,
                 std::vector<Real>& bias) const {
    if (bias.empty()) return;
    for (std::size_t i = 0; i < scores.rows; ++i) {
      for (std::size_t j = 0; j < scores.columns; ++j) {
        const std::int64_t index[] = {b, h, static_cast<std::int64_t>(i),
                                      static_cast<std::int64_t>(j)};
        std::int64_t at = 0;
        for (std::size_t axis = 0; axis < bias_shape_.size(); ++axis) {
          const std::int64_t extent = bias_shape_[axis];
          at = at * extent + (extent == 1 ? 0 : index[4 - bias_shape_.size() + axis]);
        }
        bias[static_cast<std::size_t>(at)] += scores(i, j);
      }
    }
  }

  // The formulas of the contract, in its order and by its names.
  void ComputeHead(std::int64_t b, std::int64_t h) {
    const std::int64_t kv = rules_.KeyHead(h);
    const Matrix<Real>& q = q_.At(b, h);
    const Matrix<Real>& k = k_.At(b, kv);
    const Matrix<Real>& v = v_.At(b, kv);
    const Head<Real> head(rules_, b, h, q.rows, k.rows, rounded_to_, order_);
    const Real one = 1;
    const Real scale = head.scale();

    const Matrix<Real> u = head.Scaled(q, k);
    const Matrix<Real> t = head.CapTanh(u);
    const Matrix<Real> p = head.Softmax(u, t, lse_.At(b, h));
    const Matrix<Real> pz = head.Times(p, head.z());
    head.AddOverKeys(one, pz, v, o_.At(b, h));
    if (operation_ == Operation::kForward) return;
    const Matrix<Real> o = head.RoundFactor(o_.At(b, h));

    const Matrix<Real>& o_bar = Plane(o_bar_, b, h);
    Matrix<Real> p_bar, s_bar, u_bar;
    if (operation_ != Operation::kJvp) {
      p_bar = head.Times(head.RowProducts(o_bar, v, one), head.z());
      const Matrix<Real> delta = RowDots(o_bar, o);
      s_bar = head.Centred(p, p_bar, head.Difference(delta, Plane(lse_bar_, b, h)));
      u_bar = head.Slope(t, s_bar);
      AddToBias(s_bar, b, h, bias_bar_);
      head.AddOverRows(one, pz, o_bar, v_bar_.At(b, kv));
      head.AddOverKeys(scale, u_bar, k, q_bar_.At(b, h));
      head.AddOverRows(scale, u_bar, q, k_bar_.At(b, kv));
    }
    if (operation_ == Operation::kVjp) return;

    const Matrix<Real>& q_dot = Plane(q_dot_, b, h);
    const Matrix<Real>& k_dot = Plane(k_dot_, b, kv);
    const Matrix<Real>& v_dot = Plane(v_dot_, b, kv);
    const Matrix<Real> u_dot = head.Sum(head.Scaled(q_dot, k), head.Scaled(q, k_dot));
    const Matrix<Real> s_dot =
        head.Sum(head.Slope(t, u_dot), head.Restricted(Plane(bias_dot_, b, h)));
    const Matrix<Real> mu = head.RowSums(p, s_dot);
    const Matrix<Real> p_dot = head.Centred(p, s_dot, mu);
    const Matrix<Real> p_dot_z = head.Times(p_dot, head.z());
    lse_dot_.At(b, h) = mu;
    head.AddOverKeys(one, p_dot_z, v, o_dot_.At(b, h));
    head.AddOverKeys(one, pz, v_dot, o_dot_.At(b, h));
    if (operation_ == Operation::kJvp) return;

    const Matrix<Real>& o_bar_dot = Plane(o_bar_dot_, b, h);
    const Matrix<Real> o_dot = head.RoundFactor(o_dot_.At(b, h));
    const Matrix<Real> p_bar_dot = head.Times(
        head.Sum(head.RowProducts(o_bar_dot, v, one), head.RowProducts(o_bar, v_dot, one)),
        head.z());
    const Matrix<Real> delta_dot = head.Sum(RowDots(o_bar_dot, o), RowDots(o_bar, o_dot));
    const Matrix<Real> s_bar_dot =
        head.Sum(head.Centred(s_bar, s_dot, mu),
                 head.Centred(p, p_bar_dot, head.Difference(delta_dot, Plane(lse_bar_dot_, b, h))));
    const Matrix<Real> u_bar_dot =
        head.Sum(head.Slope(t, s_bar_dot), head.Curvature(t, u_dot, s_bar));
    AddToBias(s_bar_dot, b, h, bias_bar_dot_);
    head.AddOverRows(one, p_dot_z, o_bar, v_bar_dot_.At(b, kv));
    head.AddOverRows(one, pz, o_bar_dot, v_bar_dot_.At(b, kv));
    head.AddOverKeys(scale, u_bar_dot, k, q_bar_dot_.At(b, h));
    head.AddOverKeys(scale, u_bar, k_dot, q_bar_dot_.At(b, h));
    head.AddOverRows(scale, u_bar_dot, q, k_bar_dot_.At(b, kv));
    head.AddOverRows(scale, u_bar, q_dot, k_bar_dot_.At(b, kv));
  }

  const Operation operation_;
  const ScoreRules rules_;
  const DType rounded_to_;
  const SumOrder order_;
  Planes<Real> q_, k_, v_, o_bar_, q_dot_, k_dot_, v_dot_, o_bar_dot_, lse_bar_, lse_bar_dot_;
  Planes<Real> bias_dot_;  // [batch, heads_q, seq_q, seq_kv]
  Planes<Real> o_, lse_, o_dot_, lse_dot_;
  Planes<Real> q_bar_, k_bar_, v_bar_, q_bar_dot_, k_bar_dot_, v_bar_dot_;
  client::Shape bias_shape_;
  std::vector<Real> bias_bar_, bias_bar_dot_;  // none without a floating-point mask
};

DType BiasDType(const AttentionRequest& request) {
  return request.options.mask.has_value() ? request.options.mask.local().dtype()
                                          : request.q.local().dtype();
}

}  // namespace

AttentionResult ExactAttention(Operation operation, const AttentionRequest& request) {
  constexpr DType kDType = DType::kFloat64;
  if (request.q.local().dtype() == DType::kFloat64) {
    return Computation<long double>(operation, request, kDType, SumOrder::kForward)
        .Result(kDType, kDType);
  }
  return Computation<double>(operation, request, kDType, SumOrder::kForward).Result(kDType, kDType);
}

AttentionResult SameDTypeAttention(Operation operation, const AttentionRequest& request,
                                   SumOrder order) {
  const DType dtype = request.q.local().dtype();
  if (dtype == DType::kFloat64) {
    return Computation<double>(operation, request, dtype, order).Result(dtype, BiasDType(request));
  }
  return Computation<float>(operation, request, dtype, order).Result(dtype, BiasDType(request));
}

}  // namespace theria::cli
