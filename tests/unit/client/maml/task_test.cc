#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "theria/maml_task.h"

namespace theria::maml {
namespace {

using ::testing::ElementsAre;

// The numbers are those of unrolled_reference.py, an implementation of the recipe in numpy.
TEST(MakeParametersTest, FollowsTheRecipe) {
  const Vector parameters = MakeParameters({}, 7);
  ASSERT_EQ(parameters.size(), 3 * 64 * 64 + 5 * 64 + 5);
  EXPECT_DOUBLE_EQ(parameters[0], 0.058946252555014317);                         // w_q[0][0]
  EXPECT_DOUBLE_EQ(parameters[64 * 64 - 1], 0.059818953407191816);               // w_q[63][63]
  EXPECT_DOUBLE_EQ(parameters[2 * 64 * 64 + 1], -0.099347828108892949);          // w_v[0][1]
  EXPECT_DOUBLE_EQ(parameters[3 * 64 * 64 + 5 * 64 - 1], 0.030311043329623893);  // w_head[4][63]
  EXPECT_DOUBLE_EQ(parameters[parameters.size() - 1], 0.044631737777537067);     // b_head[4]
}

TEST(MakeTaskTest, FollowsTheRecipe) {
  const Task task = MakeTask({}, 7, 2);
  EXPECT_THAT(task.support.labels, ElementsAre(4, 3, 2, 3, 4, 1, 3, 0, 4, 1, 0, 1, 0, 3, 2, 1));
  EXPECT_THAT(task.query.labels, ElementsAre(2, 4, 4, 4, 4, 3, 1, 2, 0, 4, 2, 2, 2, 3, 1, 3));
  ASSERT_EQ(task.support.x.rows(), 16 * 32);
  ASSERT_EQ(task.support.x.cols(), 64);
  EXPECT_NEAR(task.support.x(0, 0), 1.1004364896721988, 1e-14);
  EXPECT_NEAR(task.support.x(15 * 32 + 31, 63), 1.2512247567123289, 1e-14);
  EXPECT_NEAR(task.query.x(3 * 32 + 9, 5), 0.033329060859350043, 1e-14);
  EXPECT_NEAR(task.support.x.sum(), -133.35038145202, 1e-9);
  EXPECT_NEAR(task.query.x.cwiseAbs().sum(), 27473.6644328692, 1e-8);
}

TEST(MakeTaskTest, PutsThePrototypeAtTheSignalPositionsAndNeverAtTheQuery) {
  const TaskSpec spec = {.support = 40, .query = 1, .length = 9, .d_model = 7, .noise = 0.0};
  const Task task = MakeTask(spec, 1, 0);
  Matrix prototypes = Matrix::Zero(spec.classes, spec.d_model);
  for (int i = 0; i < spec.support; ++i) {
    const auto example = task.support.x.middleRows(i * spec.length, spec.length);
    EXPECT_TRUE(example.row(0).isZero());
    int signals = 0;
    auto prototype = prototypes.row(task.support.labels[i]);
    for (int t = 1; t < spec.length; ++t) {
      if (example.row(t).isZero()) continue;
      ++signals;
      if (prototype.isZero()) prototype = example.row(t);
      EXPECT_EQ(example.row(t), prototype) << "example " << i << ", token " << t;
    }
    EXPECT_EQ(signals, spec.signal_positions);
  }
}

TEST(MakeTaskTest, DrawsStandardNormalNoise) {
  const TaskSpec spec = {.support = 64, .signal_positions = 0};
  const Matrix x = MakeTask(spec, 3, 0).support.x;
  const auto count = static_cast<double>(x.size());  // 131072
  EXPECT_NEAR(x.sum() / count, 0.0, 5.0 / std::sqrt(count));
  EXPECT_NEAR(x.array().square().sum() / count, 1.0, 5.0 * std::sqrt(2.0 / count));
  EXPECT_NEAR(x.array().pow(4).sum() / count, 3.0, 5.0 * std::sqrt(96.0 / count));
}

TEST(MakeTaskTest, DependsOnSeedAndIndexAlone) {
  const TaskSpec spec;
  EXPECT_EQ(MakeTask(spec, 1, 5).query.x, MakeTask(spec, 1, 5).query.x);
  EXPECT_NE(MakeTask(spec, 1, 5).query.x, MakeTask(spec, 1, 6).query.x);
  EXPECT_NE(MakeTask(spec, 1, 5).query.x, MakeTask(spec, 2, 5).query.x);
  EXPECT_NE(MakeTask(spec, 1, 5).query.x, MakeTask(spec, 1, 5).support.x);
}

}  // namespace
}  // namespace theria::maml
