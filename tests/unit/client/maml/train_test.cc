#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/unit/client/maml/small_task.h"
#include "theria/maml_dense_attention.h"
#include "theria/maml_train.h"

namespace theria::maml {
namespace {

TEST(AdamTest, FollowsThePublishedAlgorithm) {
  Adam adam(0.1);
  Vector parameters{{1.0, -1.0}};
  // After bias correction, a first step moves by the rate against the gradient's sign.
  adam.Step(Vector{{4.0, -0.5}}, parameters);
  EXPECT_NEAR(parameters[0], 1.0 - 0.1, 1e-8);
  EXPECT_NEAR(parameters[1], -1.0 + 0.1, 1e-8);
  adam.Step(Vector{{-2.0, 0.5}}, parameters);
  // Second step, first element: mean 0.9 * 0.4 - 0.2, square 0.999 * 0.016 + 0.004.
  const double mean = (0.9 * 0.4 - 0.2) / (1.0 - 0.81);
  const double square = (0.999 * 0.016 + 0.004) / (1.0 - 0.999 * 0.999);
  EXPECT_NEAR(parameters[0], 0.9 - 0.1 * mean / std::sqrt(square), 1e-8);
}

class MetaTrainTest : public ::testing::Test {
 protected:
  DenseAttention attention_;
  AttentionClassifier model_{kSmallSpec.d_model, kSmallSpec.classes, attention_};
  Vector parameters_ = MakeParameters(kSmallSpec, 5);
  InnerLoop inner_ = {.steps = 2, .learning_rate = 0.4};
};

TEST_F(MetaTrainTest, LearnsToAdapt) {
  std::vector<OuterStep> steps;
  const auto trained = MetaTrain(
      model_, kSmallSpec, 5, inner_, {.steps = 150, .meta_batch = 8, .learning_rate = 3e-3},
      Mode::kFull, parameters_, {.on_step = [&](const OuterStep& step) { steps.push_back(step); }});
  ASSERT_TRUE(trained.ok());
  ASSERT_EQ(steps.size(), 150u);
  double first = 0.0, last = 0.0;
  for (int i = 0; i < 25; ++i) {
    first += steps[i].after.loss / 25;
    last += steps[149 - i].after.loss / 25;
    EXPECT_EQ(steps[i].index, i);
  }
  EXPECT_LT(last, 0.8 * first);
}

TEST_F(MetaTrainTest, StepsAlongTheMeanOfTheBatchsMetaGradients) {
  const OuterLoop outer = {.steps = 1, .meta_batch = 3, .learning_rate = 0.01};
  Vector mean = Vector::Zero(parameters_.size());
  for (int b = 0; b < 3; ++b) {
    mean += ComputeMetaGradient(model_, MakeTask(kSmallSpec, 5, b), inner_, Mode::kFo, parameters_)
                ->gradient /
            3.0;
  }
  Vector expected = parameters_;
  Adam(0.01).Step(mean, expected);
  std::vector<int> progress;
  OuterStep seen;
  const auto trained =
      MetaTrain(model_, kSmallSpec, 5, inner_, outer, Mode::kFo, parameters_,
                {.on_task = [&](int done, int all) { progress.push_back(10 * done + all); },
                 .on_step = [&](const OuterStep& step) { seen = step; }});
  ASSERT_TRUE(trained.ok());
  EXPECT_LT((*trained - expected).norm(), 1e-12);
  EXPECT_NEAR(seen.gradient_norm, mean.norm(), 1e-12);
  EXPECT_EQ(progress, (std::vector<int>{13, 23, 33}));
}

TEST_F(MetaTrainTest, SaysThatItDiverged) {
  const double infinity = std::numeric_limits<double>::infinity();
  const auto trained = MetaTrain(model_, kSmallSpec, 5, {.steps = 1, .learning_rate = infinity},
                                 {.steps = 2}, Mode::kFull, parameters_);
  EXPECT_EQ(trained.status().code(), absl::StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace theria::maml
