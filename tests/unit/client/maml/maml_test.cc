#include "theria/maml.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/unit/client/maml/scalar_classifier.h"
#include "tests/unit/client/maml/small_task.h"
#include "theria/maml_dense_attention.h"

namespace theria::maml {
namespace {

std::string NameOf(const InnerLoop& inner) {
  return absl::StrCat("k", inner.steps, "_lr", static_cast<int>(10 * inner.learning_rate));
}

AttentionClassifier Model(const TaskSpec& spec, AttentionOps& ops) {
  return {spec.d_model, spec.classes, ops};
}

// Differentiates the unrolled loop, parameter by parameter, without any formula of the library.
Vector UnrolledGradient(const TaskSpec& spec, const Task& task, const InnerLoop& inner,
                        const Vector& parameters) {
  Vector gradient(parameters.size());
  for (Eigen::Index i = 0; i < parameters.size(); ++i) {
    const Complex loss = UnrolledLoss(spec, task, inner.steps, inner.learning_rate,
                                      Perturbed(parameters, Vector::Unit(parameters.size(), i)));
    gradient[i] = loss.imag() / kComplexStep;
  }
  return gradient;
}

class MetaGradientTest : public ::testing::TestWithParam<InnerLoop> {
 protected:
  DenseAttention attention_;
  AttentionClassifier model_ = Model(kSmallSpec, attention_);
  Task task_ = MakeTask(kSmallSpec, 5, 0);
  Vector parameters_ = 2.0 * MakeParameters(kSmallSpec, 5);
};

TEST_P(MetaGradientTest, FullEqualsDifferentiatingTheUnrolledLoop) {
  const auto meta = ComputeMetaGradient(model_, task_, GetParam(), Mode::kFull, parameters_);
  ASSERT_TRUE(meta.ok());
  const Vector expected = UnrolledGradient(kSmallSpec, task_, GetParam(), parameters_);
  const double error = RelativeDifference(meta->gradient, expected);
  EXPECT_LT(error, 1e-9);
  RecordProperty("relative_error", std::to_string(error * 1e15) + "e-15");
}

TEST_P(MetaGradientTest, FullAgreesWithCentralDifferencesOfTheAdaptedLoss) {
  constexpr double kStep = 1e-5;
  const auto meta = ComputeMetaGradient(model_, task_, GetParam(), Mode::kFull, parameters_);
  ASSERT_TRUE(meta.ok());
  const auto adapted_loss = [&](const Vector& parameters) {
    const Trajectory trajectory = *Adapt(model_, task_.support, GetParam(), parameters);
    return model_.Evaluate(trajectory.back(), task_.query)->loss;
  };
  for (int seed = 0; seed < 5; ++seed) {
    const Vector direction = SomeDirection(parameters_.size(), seed);
    const double slope = (adapted_loss(parameters_ + kStep * direction) -
                          adapted_loss(parameters_ - kStep * direction)) /
                         (2.0 * kStep);
    EXPECT_NEAR(meta->gradient.dot(direction), slope, 1e-7);
  }
}

TEST_P(MetaGradientTest, FirstOrderModesTakeTheGradientAtTheAdaptedParameters) {
  const Trajectory trajectory = *Adapt(model_, task_.support, GetParam(), parameters_);
  ASSERT_EQ(trajectory.size(), static_cast<std::size_t>(GetParam().steps) + 1);
  const FitAndGradient query = *model_.Gradient(trajectory.back(), task_.query);
  for (const Mode mode : {Mode::kFo, Mode::kFoStrict}) {
    const auto meta = ComputeMetaGradient(model_, task_, GetParam(), mode, parameters_);
    ASSERT_TRUE(meta.ok());
    EXPECT_EQ(meta->gradient, query.gradient);
    EXPECT_EQ(meta->after.loss, query.fit.loss);
    EXPECT_EQ(meta->before.loss, model_.Evaluate(parameters_, task_.query)->loss);
  }
}

INSTANTIATE_TEST_SUITE_P(InnerLoops, MetaGradientTest,
                         ::testing::Values(InnerLoop{1, 0.4}, InnerLoop{5, 0.1}, InnerLoop{5, 0.4},
                                           InnerLoop{20, 0.4}),
                         [](const auto& info) { return NameOf(info.param); });

// The numbers are those of unrolled_reference.py: PyTorch, differentiating the unrolled loop.
struct Reference {
  InnerLoop inner;
  double loss, full_norm, first_order_norm, rel_diff, probe_norm;
};

class DiagnosticsTest : public ::testing::TestWithParam<Reference> {};

TEST_P(DiagnosticsTest, EqualPyTorchOnTheUnrolledLoop) {
  const Reference& expected = GetParam();
  DenseAttention attention;
  const AttentionClassifier model = Model({}, attention);
  const Task task = MakeTask({}, 0, 0);
  const Vector parameters = MakeParameters({}, 0);
  const auto meta = ComputeMetaGradient(model, task, expected.inner, Mode::kFull, parameters);
  const auto diagnostics = Diagnose(model, task, expected.inner, Mode::kFull, parameters);
  ASSERT_TRUE(meta.ok() && diagnostics.ok());
  constexpr double kTolerance = 1e-9;
  EXPECT_NEAR(meta->after.loss / expected.loss, 1.0, kTolerance);
  EXPECT_NEAR(meta->gradient.norm() / expected.full_norm, 1.0, kTolerance);
  EXPECT_EQ(diagnostics->full, meta->gradient);
  EXPECT_NEAR(diagnostics->first_order.norm() / expected.first_order_norm, 1.0, kTolerance);
  EXPECT_NEAR(diagnostics->rel_diff / expected.rel_diff, 1.0, kTolerance);
  EXPECT_NEAR(diagnostics->probe_norm / expected.probe_norm, 1.0, kTolerance);
  EXPECT_TRUE(diagnostics->second_order_path);
}

INSTANTIATE_TEST_SUITE_P(InnerLoops, DiagnosticsTest,
                         ::testing::Values(Reference{{5, 0.1},
                                                     1.62166096495173,
                                                     0.540838668044638,
                                                     0.542098625508585,
                                                     0.211431713291479,
                                                     0.343947793732497},
                                           Reference{{1, 0.4},
                                                     1.62838048901336,
                                                     0.529055708590306,
                                                     0.538837577290121,
                                                     0.183473356330293,
                                                     0.341233222040546},
                                           Reference{{5, 0.4},
                                                     1.51882083147544,
                                                     0.825335783221195,
                                                     0.680708544267886,
                                                     0.549536659090041,
                                                     0.690631108742827},
                                           Reference{{10, 0.4},
                                                     1.37408039528823,
                                                     1.30946489542658,
                                                     1.08209917223624,
                                                     0.569142774517225,
                                                     1.72799361396374},
                                           Reference{{20, 0.4},
                                                     1.30719602309214,
                                                     1.52613775103577,
                                                     1.28095655870638,
                                                     0.560852342445288,
                                                     2.17491384649158}),
                         [](const auto& info) { return NameOf(info.param.inner); });

TEST(DiagnoseTest, ReportsNoSecondOrderPathWhereNothingLeadsBack) {
  DenseAttention attention;
  const AttentionClassifier model = Model(kSmallSpec, attention);
  const Task task = MakeTask(kSmallSpec, 5, 0);
  const Vector parameters = MakeParameters(kSmallSpec, 5);
  const auto full = Diagnose(model, task, {}, Mode::kFull, parameters);
  const auto first_order = Diagnose(model, task, {}, Mode::kFo, parameters);
  const auto strict = Diagnose(model, task, {}, Mode::kFoStrict, parameters);
  ASSERT_TRUE(full.ok() && first_order.ok() && strict.ok());
  EXPECT_TRUE(full->second_order_path);
  EXPECT_TRUE(first_order->second_order_path);
  EXPECT_NE(first_order->probe_norm, full->probe_norm);
  EXPECT_FALSE(strict->second_order_path);
  EXPECT_EQ(strict->probe_norm, 0.0);
  EXPECT_EQ(strict->rel_diff, full->rel_diff);
  EXPECT_GT(strict->rel_diff, 0.0);
}

// A backend whose second derivatives get lost, as a detached output loses them.
class LostCurvature : public DenseAttention {
 public:
  absl::StatusOr<Qkv> Hvp(int batch, const Qkv& x, const AttentionOutput& saved,
                          const Matrix& /*o_bar*/, const Qkv& x_dot,
                          const Matrix& o_bar_dot) override {
    const Qkv nowhere = {0.0 * x_dot.q, 0.0 * x_dot.k, 0.0 * x_dot.v};
    return DenseAttention::Hvp(batch, x, saved, 0.0 * o_bar_dot, nowhere, o_bar_dot);
  }
};

TEST(DiagnoseTest, ValuesTellLostCurvatureWhereExistenceDoesNot) {
  DenseAttention exact;
  LostCurvature lossy;
  const Task task = MakeTask({}, 0, 0);
  const Vector parameters = MakeParameters({}, 0);
  const auto expected = Diagnose(Model({}, exact), task, {}, Mode::kFull, parameters);
  const auto actual = Diagnose(Model({}, lossy), task, {}, Mode::kFull, parameters);
  ASSERT_TRUE(expected.ok() && actual.ok());
  EXPECT_TRUE(actual->second_order_path);
  EXPECT_GT(RelativeDifference(actual->full, expected->full), 1e-3);
  EXPECT_EQ(actual->first_order, expected->first_order);
}

TEST(ModeTest, NamesRoundTrip) {
  for (const Mode mode : {Mode::kFull, Mode::kFo, Mode::kFoStrict}) {
    EXPECT_EQ(ParseMode(ModeName(mode)), mode);
  }
  EXPECT_EQ(ParseMode("second"), std::nullopt);
}

// Fails at call number `failing`, of all operations counted together.
class FailingAttention : public DenseAttention {
 public:
  explicit FailingAttention(int failing) : left_(failing) {}
  absl::StatusOr<AttentionOutput> Forward(int batch, const Qkv& x) override {
    if (left_-- == 0) return absl::UnavailableError("gone");
    return DenseAttention::Forward(batch, x);
  }
  absl::StatusOr<Qkv> Vjp(int batch, const Qkv& x, const AttentionOutput& saved,
                          const Matrix& o_bar) override {
    if (left_-- == 0) return absl::UnavailableError("gone");
    return DenseAttention::Vjp(batch, x, saved, o_bar);
  }
  absl::StatusOr<AttentionTangent> Jvp(int batch, const Qkv& x, const Qkv& x_dot) override {
    if (left_-- == 0) return absl::UnavailableError("gone");
    return DenseAttention::Jvp(batch, x, x_dot);
  }
  absl::StatusOr<Qkv> Hvp(int batch, const Qkv& x, const AttentionOutput& saved,
                          const Matrix& o_bar, const Qkv& x_dot, const Matrix& o_bar_dot) override {
    if (left_-- == 0) return absl::UnavailableError("gone");
    return DenseAttention::Hvp(batch, x, saved, o_bar, x_dot, o_bar_dot);
  }

 private:
  int left_;
};

TEST(ComputeMetaGradientTest, PassesEveryCallsErrorOn) {
  const Task task = MakeTask(kSmallSpec, 5, 0);
  const Vector parameters = MakeParameters(kSmallSpec, 5);
  const InnerLoop inner = {.steps = 2, .learning_rate = 0.1};
  // Evaluate 1, two inner gradients 4, outer gradient 2, two Hessian products 4.
  for (int failing = 0; failing <= 11; ++failing) {
    FailingAttention attention(failing);
    const auto meta =
        ComputeMetaGradient(Model(kSmallSpec, attention), task, inner, Mode::kFull, parameters);
    EXPECT_EQ(meta.status().code(),
              failing < 11 ? absl::StatusCode::kUnavailable : absl::StatusCode::kOk)
        << "call " << failing;
  }
}

}  // namespace
}  // namespace theria::maml
