#include <cmath>

#include "theria/maml_dense_attention.h"

namespace theria::maml {
namespace {

using ConstRows = Eigen::Block<const Matrix, Eigen::Dynamic, Eigen::Dynamic, true>;

// The rows of example `b`, of `batch`.
ConstRows Example(const Matrix& matrix, int batch, int b) {
  const Eigen::Index rows = matrix.rows() / batch;
  return matrix.middleRows(b * rows, rows);
}
auto Example(Matrix& matrix, int batch, int b) {
  const Eigen::Index rows = matrix.rows() / batch;
  return matrix.middleRows(b * rows, rows);
}

struct Head {
  ConstRows q, k, v;
};
Head Example(const Qkv& x, int batch, int b) {
  return {Example(x.q, batch, b), Example(x.k, batch, b), Example(x.v, batch, b)};
}

Qkv ZerosLike(const Qkv& x) {
  return {Matrix::Zero(x.q.rows(), x.q.cols()), Matrix::Zero(x.k.rows(), x.k.cols()),
          Matrix::Zero(x.v.rows(), x.v.cols())};
}

double Scale(const Head& x) { return 1.0 / std::sqrt(static_cast<double>(x.q.cols())); }

// P = exp(S - lse).
Matrix Probabilities(const Head& x, const Eigen::Ref<const Vector>& lse) {
  const Matrix scores = Scale(x) * x.q * x.k.transpose();
  return (scores.colwise() - lse).array().exp();
}

// A column of the rows' inner products.
Vector RowDot(const Matrix& a, const Matrix& b) { return a.cwiseProduct(b).rowwise().sum(); }

// The tangents of S less that of lse: S_dot - mu.
Matrix CentredScoreTangent(const Head& x, const Head& x_dot, const Matrix& p) {
  const Matrix s_dot = Scale(x) * (x_dot.q * x.k.transpose() + x.q * x_dot.k.transpose());
  return s_dot.colwise() - RowDot(p, s_dot);
}

}  // namespace

absl::StatusOr<AttentionOutput> DenseAttention::Forward(int batch, const Qkv& x) {
  AttentionOutput output{Matrix(x.q.rows(), x.v.cols()), Vector(x.q.rows())};
  const Eigen::Index seq_q = x.q.rows() / batch;
  for (int b = 0; b < batch; ++b) {
    const Head head = Example(x, batch, b);
    const Matrix scores = Scale(head) * head.q * head.k.transpose();
    const Vector largest = scores.rowwise().maxCoeff();
    const Vector sum = (scores.colwise() - largest).array().exp().rowwise().sum();
    const Vector lse = largest.array() + sum.array().log();
    output.lse.segment(b * seq_q, seq_q) = lse;
    Example(output.o, batch, b) = Probabilities(head, lse) * head.v;
  }
  return output;
}

absl::StatusOr<Qkv> DenseAttention::Vjp(int batch, const Qkv& x, const AttentionOutput& saved,
                                        const Matrix& o_bar) {
  Qkv bar = ZerosLike(x);
  const Eigen::Index seq_q = x.q.rows() / batch;
  for (int b = 0; b < batch; ++b) {
    const Head head = Example(x, batch, b);
    const Matrix o_bar_b = Example(o_bar, batch, b);
    const Matrix p = Probabilities(head, saved.lse.segment(b * seq_q, seq_q));
    const Matrix p_bar = o_bar_b * head.v.transpose();
    const Vector delta = RowDot(o_bar_b, Example(saved.o, batch, b));
    const Matrix s_bar = p.cwiseProduct(p_bar.colwise() - delta);
    Example(bar.q, batch, b) = Scale(head) * s_bar * head.k;
    Example(bar.k, batch, b) = Scale(head) * s_bar.transpose() * head.q;
    Example(bar.v, batch, b) = p.transpose() * o_bar_b;
  }
  return bar;
}

absl::StatusOr<AttentionTangent> DenseAttention::Jvp(int batch, const Qkv& x, const Qkv& x_dot) {
  absl::StatusOr<AttentionOutput> primal = DenseAttention::Forward(batch, x);
  Matrix o_dot(x.q.rows(), x.v.cols());
  const Eigen::Index seq_q = x.q.rows() / batch;
  for (int b = 0; b < batch; ++b) {
    const Head head = Example(x, batch, b), dot = Example(x_dot, batch, b);
    const Matrix p = Probabilities(head, primal->lse.segment(b * seq_q, seq_q));
    const Matrix p_dot = p.cwiseProduct(CentredScoreTangent(head, dot, p));
    Example(o_dot, batch, b) = p_dot * head.v + p * dot.v;
  }
  return AttentionTangent{*std::move(primal), std::move(o_dot)};
}

absl::StatusOr<Qkv> DenseAttention::Hvp(int batch, const Qkv& x, const AttentionOutput& saved,
                                        const Matrix& o_bar, const Qkv& x_dot,
                                        const Matrix& o_bar_dot) {
  Qkv bar_dot = ZerosLike(x);
  const Eigen::Index seq_q = x.q.rows() / batch;
  for (int b = 0; b < batch; ++b) {
    const Head head = Example(x, batch, b), dot = Example(x_dot, batch, b);
    const Matrix o_bar_b = Example(o_bar, batch, b), o_bar_dot_b = Example(o_bar_dot, batch, b);
    const Matrix p = Probabilities(head, saved.lse.segment(b * seq_q, seq_q));
    const Matrix centred = CentredScoreTangent(head, dot, p);
    const Matrix p_dot = p.cwiseProduct(centred);
    const Matrix o_dot = p_dot * head.v + p * dot.v;
    const Matrix p_bar = o_bar_b * head.v.transpose();
    const Matrix p_bar_dot = o_bar_dot_b * head.v.transpose() + o_bar_b * dot.v.transpose();
    const Matrix o = Example(saved.o, batch, b);
    const Vector delta = RowDot(o_bar_b, o);
    const Vector delta_dot = RowDot(o_bar_dot_b, o) + RowDot(o_bar_b, o_dot);
    const Matrix s_bar = p.cwiseProduct(p_bar.colwise() - delta);
    const Matrix s_bar_dot =
        s_bar.cwiseProduct(centred) + p.cwiseProduct(p_bar_dot.colwise() - delta_dot);
    const double scale = Scale(head);
    Example(bar_dot.q, batch, b) = scale * (s_bar_dot * head.k + s_bar * dot.k);
    Example(bar_dot.k, batch, b) =
        scale * (s_bar_dot.transpose() * head.q + s_bar.transpose() * dot.q);
    Example(bar_dot.v, batch, b) = p_dot.transpose() * o_bar_b + p.transpose() * o_bar_dot_b;
  }
  return bar_dot;
}

}  // namespace theria::maml
