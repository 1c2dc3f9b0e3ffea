// What inputs may be: broadcast, absent, saved from an earlier forward, outputs by strides.

#include <utility>

#include "tests/conformance/conformance_test.h"
#include "tests/conformance/dense_oracle.h"

namespace theria::conformance {
namespace {

class InputsTest : public TargetTest {};

TEST_P(InputsTest, StridesOfZeroRepeat) {
  const Problem whole = MakeProblem(CaseNamed("square"), DType::kFloat32);
  // Keep one batch element, head, row or column of each input, and repeat it.
  const std::pair<const char*, int> repeated[] = {{"q", 0},     {"k", 1},        {"v", 2},
                                                  {"o_bar", 3}, {"q_dot", 2},    {"k_dot", 0},
                                                  {"v_dot", 3}, {"o_bar_dot", 1}};
  Problem problem = whole;
  for (const auto& [name, axis] : repeated) problem.inputs[name].strides[axis] = 0;
  const Arrays expected = DenseOracle(problem);
  for (const Operation operation : kOperations) {
    SCOPED_TRACE(OperationName(operation));
    ExpectNear(RunArrays(target(), operation, problem), expected,
               AgainstOracle(target().arithmetic, DType::kFloat32));
  }
  for (auto& [name, tensor] : problem.inputs) tensor.strides = {0, 0, 0, 0};
  ExpectNear(RunArrays(target(), Operation::kHvp, problem), DenseOracle(problem),
             AgainstOracle(target().arithmetic, DType::kFloat32));
}

TEST_P(InputsTest, OutputsGoWhereTheirStridesSay) {
  const Problem problem = MakeProblem(CaseNamed("grouped"), DType::kFloat32);
  const auto expected = RunTensors(target(), Operation::kHvp, problem);
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const Layout layout : {Layout::kHeadsInner, Layout::kTransposed, Layout::kGapped}) {
    const auto actual = RunTensors(target(), Operation::kHvp, problem, {}, NoInterrupt(), layout);
    ASSERT_TRUE(actual.ok()) << actual.status();
    for (const auto& [name, tensor] : *actual) {
      // Encoding fills the gaps as they were before: a stray write shows.
      EXPECT_EQ(tensor.bytes, Encode(Decode(expected->at(name)), tensor.dtype, layout).bytes)
          << name;
    }
  }
}

TEST_P(InputsTest, AbsentTangentsAreZero) {
  for (const char* case_name : {"grouped", "dropout_half_grouped", "causal_grouped"}) {
    const Problem whole = MakeProblem(CaseNamed(case_name), DType::kFloat64);
    const std::string names[] = {"q_dot", "k_dot", "v_dot", "o_bar_dot"};
    for (unsigned present = 0; present < 16; ++present) {
      Problem absent = whole;
      for (unsigned i = 0; i < 4; ++i) {
        if ((present >> i & 1) == 0) absent.inputs.erase(names[i]);
      }
      const Arrays expected = DenseOracle(absent);
      for (const Operation operation : {Operation::kJvp, Operation::kHvp}) {
        SCOPED_TRACE(testing::Message()
                     << case_name << " " << OperationName(operation) << " tangents " << present);
        ExpectNear(RunArrays(target(), operation, absent), expected,
                   AgainstOracle(target().arithmetic, DType::kFloat64));
      }
    }
  }
}

TEST_P(InputsTest, SavedStatisticsGiveTheSameResults) {
  for (const char* case_name : {"small", "grouped", "causal_more_keys", "window_past_the_keys",
                                "mask_query_column", "dropout", "everything"}) {
    for (const DType dtype : kDTypes) {
      Problem problem = MakeProblem(CaseNamed(case_name), dtype);
      const Arrays expected = DenseOracle(problem);
      const auto saved = RunTensors(target(), Operation::kForward, problem);
      ASSERT_TRUE(saved.ok()) << saved.status();
      problem.inputs.insert(saved->begin(), saved->end());
      for (const Operation operation : {Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
        SCOPED_TRACE(testing::Message()
                     << case_name << " " << DTypeName(dtype) << " " << OperationName(operation));
        const auto actual = RunTensors(target(), operation, problem);
        ASSERT_TRUE(actual.ok()) << actual.status();
        if (target().is_reference()) {
          EXPECT_EQ(actual->at("o").bytes, saved->at("o").bytes);
          EXPECT_EQ(actual->at("lse").bytes, saved->at("lse").bytes);
        }
        for (const auto& [name, tensor] : *actual) {
          EXPECT_TRUE(Near(Decode(tensor), expected.at(name),
                           WithSavedStatistics(target().arithmetic, dtype), HalfSmallest(dtype)))
              << name;
        }
      }
    }
  }
}

// Saved statistics are a hint: P is as exact as without them.
TEST_P(InputsTest, WrongSavedLseDoesNotMatter) {
  if (!target().is_reference()) GTEST_SKIP() << "may rebuild P from lse where that is exact";
  for (const DType dtype : kDTypes) {
    Problem problem = MakeProblem(CaseNamed("everything"), dtype);
    auto saved = RunTensors(target(), Operation::kForward, problem);
    ASSERT_TRUE(saved.ok()) << saved.status();
    for (const Operation operation : {Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
      const auto plain = RunTensors(target(), operation, problem);
      ASSERT_TRUE(plain.ok()) << plain.status();
      for (const double wrong : {0.5, 1e9, std::nan("")}) {
        Problem misled = problem;
        Array lse = Decode(saved->at("lse"));
        for (double& value : lse.values) value += wrong;
        misled.inputs["o"] = saved->at("o");
        misled.inputs["lse"] = Encode(lse, StatisticsDType(dtype), Layout::kRowMajor);
        const auto actual = RunTensors(target(), operation, misled);
        ASSERT_TRUE(actual.ok()) << actual.status();
        for (const auto& [name, tensor] : *actual) {
          const HostTensor& expected = name == "lse" ? misled.inputs[name] : plain->at(name);
          EXPECT_EQ(tensor.bytes, expected.bytes) << OperationName(operation) << " " << name;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Conformance, InputsTest, testing::ValuesIn(Targets()), TargetTestName);

}  // namespace
}  // namespace theria::conformance
