#include "client/cli/parity/explicit_attention.h"

#include <cstdint>
#include <string_view>

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
    for (std::int64_t b = 0; b < q_.shape[0]; ++b) {
      for (std::int64_t h = 0; h < q_.shape[1]; ++h) ComputeHead(b, h);
    }
  }

  AttentionResult Result(DType dtype) const {
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
    return result;
  }

 private:
  // The matrix of a head, or an empty one for an absent tensor.
  static const Matrix<Real>& Plane(Planes<Real>& planes, std::int64_t b, std::int64_t h) {
    static const Matrix<Real> absent;
    return planes.empty() ? absent : planes.At(b, h);
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

    const Matrix<Real> p = head.Softmax(head.Scaled(q, k), lse_.At(b, h));
    const Matrix<Real> pz = head.Times(p, head.z());
    head.AddOverKeys(one, pz, v, o_.At(b, h));
    if (operation_ == Operation::kForward) return;
    const Matrix<Real> o = head.RoundFactor(o_.At(b, h));

    const Matrix<Real>& o_bar = Plane(o_bar_, b, h);
    Matrix<Real> p_bar, delta, s_bar;
    if (operation_ != Operation::kJvp) {
      p_bar = head.Times(head.RowProducts(o_bar, v, one), head.z());
      delta = RowDots(o_bar, o);
      s_bar = head.Centred(p, p_bar, delta);
      head.AddOverRows(one, pz, o_bar, v_bar_.At(b, kv));
      head.AddOverKeys(scale, s_bar, k, q_bar_.At(b, h));
      head.AddOverRows(scale, s_bar, q, k_bar_.At(b, kv));
    }
    if (operation_ == Operation::kVjp) return;

    const Matrix<Real>& q_dot = Plane(q_dot_, b, h);
    const Matrix<Real>& k_dot = Plane(k_dot_, b, kv);
    const Matrix<Real>& v_dot = Plane(v_dot_, b, kv);
    const Matrix<Real> s_dot = head.Sum(head.Scaled(q_dot, k), head.Scaled(q, k_dot));
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
        head.Sum(head.Centred(s_bar, s_dot, mu), head.Centred(p, p_bar_dot, delta_dot));
    head.AddOverRows(one, p_dot_z, o_bar, v_bar_dot_.At(b, kv));
    head.AddOverRows(one, pz, o_bar_dot, v_bar_dot_.At(b, kv));
    head.AddOverKeys(scale, s_bar_dot, k, q_bar_dot_.At(b, h));
    head.AddOverKeys(scale, s_bar, k_dot, q_bar_dot_.At(b, h));
    head.AddOverRows(scale, s_bar_dot, q, k_bar_dot_.At(b, kv));
    head.AddOverRows(scale, s_bar, q_dot, k_bar_dot_.At(b, kv));
  }

  const Operation operation_;
  const ScoreRules rules_;
  const DType rounded_to_;
  const SumOrder order_;
  Planes<Real> q_, k_, v_, o_bar_, q_dot_, k_dot_, v_dot_, o_bar_dot_;
  Planes<Real> o_, lse_, o_dot_, lse_dot_;
  Planes<Real> q_bar_, k_bar_, v_bar_, q_bar_dot_, k_bar_dot_, v_bar_dot_;
};

}  // namespace

AttentionResult ExactAttention(Operation operation, const AttentionRequest& request) {
  constexpr DType kDType = DType::kFloat64;
  if (request.q.local().dtype() == DType::kFloat64) {
    return Computation<long double>(operation, request, kDType, SumOrder::kForward).Result(kDType);
  }
  return Computation<double>(operation, request, kDType, SumOrder::kForward).Result(kDType);
}

AttentionResult SameDTypeAttention(Operation operation, const AttentionRequest& request,
                                   SumOrder order) {
  const DType dtype = request.q.local().dtype();
  if (dtype == DType::kFloat64) {
    return Computation<double>(operation, request, dtype, order).Result(dtype);
  }
  return Computation<float>(operation, request, dtype, order).Result(dtype);
}

}  // namespace theria::cli
