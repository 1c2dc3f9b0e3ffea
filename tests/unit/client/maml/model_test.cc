#include <gtest/gtest.h>

#include "tests/unit/client/maml/scalar_classifier.h"
#include "tests/unit/client/maml/small_task.h"
#include "theria/maml_dense_attention.h"
#include "theria/maml_model.h"

namespace theria::maml {
namespace {

class ModelTest : public ::testing::Test {
 protected:
  DenseAttention attention_;
  AttentionClassifier model_{kSmallSpec.d_model, kSmallSpec.classes, attention_};
  Episode episode_ = MakeTask(kSmallSpec, 11, 0).support;
  Vector parameters_ = 3.0 * MakeParameters(kSmallSpec, 11);
};

TEST_F(ModelTest, CountsItsParameters) { EXPECT_EQ(model_.parameter_count(), parameters_.size()); }

TEST_F(ModelTest, LossAndGradientEqualTheScalarOracle) {
  const auto result = model_.Gradient(parameters_, episode_);
  ASSERT_TRUE(result.ok());
  const ComplexParameters point = Perturbed(parameters_, Vector::Zero(parameters_.size()));
  Tape tape;
  EXPECT_NEAR(result->fit.loss, ScalarLoss(kSmallSpec, episode_, Inputs(tape, point)).value.real(),
              1e-13);
  const ComplexParameters expected = ScalarGradient(kSmallSpec, episode_, point);
  for (Eigen::Index i = 0; i < parameters_.size(); ++i) {
    EXPECT_NEAR(result->gradient[i], expected[i].real(), 1e-13) << "parameter " << i;
  }
}

TEST_F(ModelTest, HessianVectorEqualsTheScalarOracle) {
  const Vector direction = SomeDirection(parameters_.size(), 1);
  const auto product = model_.HessianVector(parameters_, episode_, direction);
  ASSERT_TRUE(product.ok());
  const ComplexParameters expected =
      ScalarGradient(kSmallSpec, episode_, Perturbed(parameters_, direction));
  for (Eigen::Index i = 0; i < parameters_.size(); ++i) {
    EXPECT_NEAR((*product)[i], expected[i].imag() / kComplexStep, 1e-12) << "parameter " << i;
  }
}

TEST_F(ModelTest, GradientAgreesWithCentralDifferencesOfTheLoss) {
  constexpr double kStep = 1e-5;
  const auto result = model_.Gradient(parameters_, episode_);
  ASSERT_TRUE(result.ok());
  for (Eigen::Index i = 0; i < parameters_.size(); ++i) {
    Vector above = parameters_, below = parameters_;
    above[i] += kStep;
    below[i] -= kStep;
    const double slope =
        (model_.Evaluate(above, episode_)->loss - model_.Evaluate(below, episode_)->loss) /
        (2.0 * kStep);
    EXPECT_NEAR(result->gradient[i], slope, 1e-9) << "parameter " << i;
  }
}

TEST_F(ModelTest, HessianVectorAgreesWithCentralDifferencesOfTheGradient) {
  constexpr double kStep = 1e-5;
  const Vector direction = SomeDirection(parameters_.size(), 2);
  const auto product = model_.HessianVector(parameters_, episode_, direction);
  ASSERT_TRUE(product.ok());
  const Vector slope = (model_.Gradient(parameters_ + kStep * direction, episode_)->gradient -
                        model_.Gradient(parameters_ - kStep * direction, episode_)->gradient) /
                       (2.0 * kStep);
  EXPECT_LT(RelativeDifference(*product, slope), 1e-8);
}

TEST_F(ModelTest, HessianIsSymmetricAndLinear) {
  const Vector a = SomeDirection(parameters_.size(), 3), b = SomeDirection(parameters_.size(), 4);
  const Vector h_a = *model_.HessianVector(parameters_, episode_, a);
  const Vector h_b = *model_.HessianVector(parameters_, episode_, b);
  EXPECT_NEAR(a.dot(h_b), b.dot(h_a), 1e-12 * a.norm() * h_b.norm());
  const Vector h_sum = *model_.HessianVector(parameters_, episode_, 2.0 * a - b);
  EXPECT_LT(RelativeDifference(h_sum, 2.0 * h_a - h_b), 1e-12);
  EXPECT_TRUE(model_.HessianVector(parameters_, episode_, Vector::Zero(a.size()))->isZero(0.0));
}

TEST_F(ModelTest, AccuracyIsTheShareOfRightAnswers) {
  Vector parameters = Vector::Zero(parameters_.size());
  parameters[parameters.size() - 2] = 1.0;  // b_head: always answers class 1
  const auto fit = model_.Evaluate(parameters, episode_);
  ASSERT_TRUE(fit.ok());
  const auto right = std::count(episode_.labels.begin(), episode_.labels.end(), 1);
  EXPECT_DOUBLE_EQ(fit->accuracy, static_cast<double>(right) / kSmallSpec.support);
  EXPECT_GT(right, 0);
}

TEST_F(ModelTest, LargeLogitsDoNotOverflow) {
  const auto result = model_.Gradient(1e4 * parameters_, episode_);
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(std::isfinite(result->fit.loss));
  EXPECT_TRUE(result->gradient.allFinite());
}

}  // namespace
}  // namespace theria::maml
