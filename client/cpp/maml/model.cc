#include <cmath>
#include <utility>

#include "theria/maml_model.h"

namespace theria::maml {
namespace {

using RowVector = Eigen::RowVectorXd;
using FirstTokens = Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>;

// The parameters of a vector by name, in the order of MakeParameters. MatrixMap is
// Eigen::Map<Matrix> or Eigen::Map<const Matrix>.
template <typename Data, typename MatrixMap, typename RowMap>
struct Layers {
  Layers(Data* data, int d_model, int classes)
      : w_q(data, d_model, d_model),
        w_k(w_q.data() + w_q.size(), d_model, d_model),
        w_v(w_k.data() + w_k.size(), d_model, d_model),
        w_head(w_v.data() + w_v.size(), classes, d_model),
        b_head(w_head.data() + w_head.size(), classes) {}
  MatrixMap w_q, w_k, w_v, w_head;
  RowMap b_head;
};
using ConstLayers = Layers<const double, Eigen::Map<const Matrix>, Eigen::Map<const RowVector>>;
using MutableLayers = Layers<double, Eigen::Map<Matrix>, Eigen::Map<RowVector>>;

int Examples(const Episode& episode) { return static_cast<int>(episode.labels.size()); }

FirstTokens FirstTokensOf(const Episode& episode) {
  const Eigen::Index length = episode.x.rows() / Examples(episode);
  return {episode.x.data(), Examples(episode), episode.x.cols(),
          Eigen::OuterStride<>(length * episode.x.cols())};
}

// x_0 w_q^T, x w_k^T, x w_v^T: the projections, and, linear as they are, their tangents.
Qkv Project(const Episode& episode, const ConstLayers& layers) {
  return {FirstTokensOf(episode) * layers.w_q.transpose(), episode.x * layers.w_k.transpose(),
          episode.x * layers.w_v.transpose()};
}

// The transpose of Project, into the projections' part of `gradient`.
void ProjectBack(const Episode& episode, const Qkv& bar, MutableLayers& gradient) {
  gradient.w_q.noalias() = bar.q.transpose() * FirstTokensOf(episode);
  gradient.w_k.noalias() = bar.k.transpose() * episode.x;
  gradient.w_v.noalias() = bar.v.transpose() * episode.x;
}

// The head: probabilities, how well they fit, and z_bar.
struct Judgement {
  Fit fit;
  Matrix p;      // [examples, classes]
  Matrix z_bar;  // [examples, classes]
};

Judgement Judge(const Matrix& o, const ConstLayers& layers, const std::vector<int>& labels) {
  const Matrix z = (o * layers.w_head.transpose()).rowwise() + layers.b_head;
  const Vector largest = z.rowwise().maxCoeff();
  const Matrix shifted = z.colwise() - largest;
  const Vector log_sum = shifted.array().exp().rowwise().sum().log();
  const auto examples = static_cast<double>(labels.size());
  Judgement judgement;
  judgement.p = (shifted.colwise() - log_sum).array().exp();
  judgement.z_bar = judgement.p / examples;
  for (Eigen::Index i = 0; i < z.rows(); ++i) {
    const int label = labels[i];
    Eigen::Index answer = 0;
    z.row(i).maxCoeff(&answer);
    judgement.fit.loss += (log_sum(i) - shifted(i, label)) / examples;
    judgement.fit.accuracy += (answer == label ? 1.0 : 0.0) / examples;
    judgement.z_bar(i, label) -= 1.0 / examples;
  }
  return judgement;
}

}  // namespace

AttentionClassifier::AttentionClassifier(int d_model, int classes, AttentionOps& ops)
    : d_model_(d_model), classes_(classes), ops_(ops) {}

Eigen::Index AttentionClassifier::parameter_count() const {
  return Eigen::Index{3} * d_model_ * d_model_ + Eigen::Index{classes_} * (d_model_ + 1);
}

absl::StatusOr<Fit> AttentionClassifier::Evaluate(const Vector& parameters,
                                                  const Episode& episode) const {
  const ConstLayers layers(parameters.data(), d_model_, classes_);
  const auto output = ops_.Forward(Examples(episode), Project(episode, layers));
  if (!output.ok()) return output.status();
  return Judge(output->o, layers, episode.labels).fit;
}

absl::StatusOr<FitAndGradient> AttentionClassifier::Gradient(const Vector& parameters,
                                                             const Episode& episode) const {
  const ConstLayers layers(parameters.data(), d_model_, classes_);
  const Qkv x = Project(episode, layers);
  const auto output = ops_.Forward(Examples(episode), x);
  if (!output.ok()) return output.status();
  const Judgement judgement = Judge(output->o, layers, episode.labels);

  FitAndGradient result{judgement.fit, Vector(parameters.size())};
  MutableLayers gradient(result.gradient.data(), d_model_, classes_);
  gradient.w_head.noalias() = judgement.z_bar.transpose() * output->o;
  gradient.b_head = judgement.z_bar.colwise().sum();
  const auto bar = ops_.Vjp(Examples(episode), x, *output, judgement.z_bar * layers.w_head);
  if (!bar.ok()) return bar.status();
  ProjectBack(episode, *bar, gradient);
  return result;
}

absl::StatusOr<Vector> AttentionClassifier::HessianVector(const Vector& parameters,
                                                          const Episode& episode,
                                                          const Vector& direction) const {
  const ConstLayers layers(parameters.data(), d_model_, classes_);
  const ConstLayers dot(direction.data(), d_model_, classes_);
  const Qkv x = Project(episode, layers);
  const Qkv x_dot = Project(episode, dot);
  const auto tangent = ops_.Jvp(Examples(episode), x, x_dot);
  if (!tangent.ok()) return tangent.status();
  const Matrix& o = tangent->primal.o;
  const Matrix& o_dot = tangent->o_dot;
  const auto [fit, p, z_bar] = Judge(o, layers, episode.labels);

  const Matrix z_dot =
      (o_dot * layers.w_head.transpose() + o * dot.w_head.transpose()).rowwise() + dot.b_head;
  const Vector mean = p.cwiseProduct(z_dot).rowwise().sum();
  const Matrix z_bar_dot = p.cwiseProduct(z_dot.colwise() - mean) / Examples(episode);

  Vector product(parameters.size());
  MutableLayers bar_dot(product.data(), d_model_, classes_);
  bar_dot.w_head = z_bar_dot.transpose() * o + z_bar.transpose() * o_dot;
  bar_dot.b_head = z_bar_dot.colwise().sum();
  const auto x_bar_dot = ops_.Hvp(Examples(episode), x, tangent->primal, z_bar * layers.w_head,
                                  x_dot, z_bar_dot * layers.w_head + z_bar * dot.w_head);
  if (!x_bar_dot.ok()) return x_bar_dot.status();
  ProjectBack(episode, *x_bar_dot, bar_dot);
  return product;
}

}  // namespace theria::maml
