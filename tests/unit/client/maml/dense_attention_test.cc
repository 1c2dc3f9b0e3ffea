#include <gtest/gtest.h>

#include "tests/unit/client/maml/small_task.h"
#include "theria/maml_dense_attention.h"

namespace theria::maml {
namespace {

constexpr int kBatch = 2;
constexpr double kStep = 1e-5;

Matrix SomeMatrix(Eigen::Index rows, Eigen::Index cols, int seed) {
  return SomeDirection(rows * cols, seed).reshaped<Eigen::RowMajor>(rows, cols);
}

// seq_q 3, seq_kv 4, head_dim 5, head_dim_v 2.
Qkv SomeQkv(int seed) {
  return {SomeMatrix(kBatch * 3, 5, seed), SomeMatrix(kBatch * 4, 5, seed + 1),
          SomeMatrix(kBatch * 4, 2, seed + 2)};
}

Qkv Moved(const Qkv& x, double step, const Qkv& x_dot) {
  return {x.q + step * x_dot.q, x.k + step * x_dot.k, x.v + step * x_dot.v};
}

double Inner(const Qkv& a, const Qkv& b) {
  return a.q.cwiseProduct(b.q).sum() + a.k.cwiseProduct(b.k).sum() + a.v.cwiseProduct(b.v).sum();
}

class DenseAttentionTest : public ::testing::Test {
 protected:
  Qkv Vjp(const Qkv& x, const Matrix& o_bar) {
    return *attention_.Vjp(kBatch, x, *attention_.Forward(kBatch, x), o_bar);
  }

  DenseAttention attention_;
  Qkv x_ = SomeQkv(0), x_dot_ = SomeQkv(10);
  Matrix o_bar_ = SomeMatrix(kBatch * 3, 2, 20), o_bar_dot_ = SomeMatrix(kBatch * 3, 2, 21);
};

TEST_F(DenseAttentionTest, ForwardIsSoftmaxOverKeysWithinEachExample) {
  const AttentionOutput output = *attention_.Forward(kBatch, x_);
  for (int row = 0; row < kBatch * 3; ++row) {
    const int first_key = row / 3 * 4;
    double sum = 0.0;
    Eigen::RowVector2d weighted = Eigen::RowVector2d::Zero();
    for (int j = first_key; j < first_key + 4; ++j) {
      const double weight = std::exp(x_.q.row(row).dot(x_.k.row(j)) / std::sqrt(5.0));
      sum += weight;
      weighted += weight * x_.v.row(j);
    }
    EXPECT_NEAR(output.lse[row], std::log(sum), 1e-14);
    EXPECT_LT((output.o.row(row) - weighted / sum).norm(), 1e-14);
  }
}

TEST_F(DenseAttentionTest, JvpAgreesWithCentralDifferences) {
  const AttentionTangent tangent = *attention_.Jvp(kBatch, x_, x_dot_);
  const Matrix slope = (attention_.Forward(kBatch, Moved(x_, kStep, x_dot_))->o -
                        attention_.Forward(kBatch, Moved(x_, -kStep, x_dot_))->o) /
                       (2.0 * kStep);
  EXPECT_LT(RelativeDifference(tangent.o_dot, slope), 1e-9);
  EXPECT_EQ(tangent.primal.o, attention_.Forward(kBatch, x_)->o);
}

TEST_F(DenseAttentionTest, VjpIsTheAdjointOfJvp) {
  const double forward = o_bar_.cwiseProduct(attention_.Jvp(kBatch, x_, x_dot_)->o_dot).sum();
  EXPECT_NEAR(forward, Inner(Vjp(x_, o_bar_), x_dot_), 1e-13);
}

TEST_F(DenseAttentionTest, HvpAgreesWithCentralDifferencesOfVjp) {
  const Qkv product =
      *attention_.Hvp(kBatch, x_, *attention_.Forward(kBatch, x_), o_bar_, x_dot_, o_bar_dot_);
  const Qkv above = Vjp(Moved(x_, kStep, x_dot_), o_bar_ + kStep * o_bar_dot_);
  const Qkv below = Vjp(Moved(x_, -kStep, x_dot_), o_bar_ - kStep * o_bar_dot_);
  EXPECT_LT(RelativeDifference(product.q, (above.q - below.q) / (2.0 * kStep)), 1e-8);
  EXPECT_LT(RelativeDifference(product.k, (above.k - below.k) / (2.0 * kStep)), 1e-8);
  EXPECT_LT(RelativeDifference(product.v, (above.v - below.v) / (2.0 * kStep)), 1e-8);
}

}  // namespace
}  // namespace theria::maml
