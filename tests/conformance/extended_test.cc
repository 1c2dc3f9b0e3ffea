// Cotangents of lse and derivatives of the bias at the edges: rows without keys, forbidden pairs,
// absent tensors, any number of threads; and lengths that are wrong.

#include <limits>
#include <memory>

#include "kernels/cpu/backend.h"
#include "tests/conformance/conformance_test.h"
#include "tests/conformance/dense_oracle.h"

namespace theria::conformance {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

class ExtendedTest : public TargetTest {
 protected:
  void SetUp() override {
    if (target().is_reference()) return;
    for (const char* name : {"lse_bar", "bias_full", "documents", "softcap"}) {
      const Problem problem = MakeProblem(CaseNamed(name), DType::kFloat64);
      const absl::Status status = RunTensors(target(), Operation::kHvp, problem).status();
      if (absl::IsUnimplemented(status)) GTEST_SKIP() << status;
    }
  }

  void ExpectAsOracle(const Problem& problem, const Arrays& expected) {
    for (const Operation operation : kOperations) {
      SCOPED_TRACE(OperationName(operation));
      ExpectNear(RunArrays(target(), operation, problem), expected,
                 AgainstOracle(target().arithmetic, DType::kFloat64));
    }
  }
};

TEST_P(ExtendedTest, LseBarOfARowWithoutKeysContributesNothing) {
  for (const double value : {1e300, kNan, std::numeric_limits<double>::infinity()}) {
    SCOPED_TRACE(value);
    Problem problem = MakeProblem(CaseNamed("lse_bar_dead_rows"), DType::kFloat64);
    const Arrays expected = DenseOracle(problem);
    const Arrays values = problem.Values();
    const Array mask = Decode(*problem.mask);
    for (const char* name : {"lse_bar", "lse_bar_dot"}) {
      Array array = values.at(name);
      for (std::size_t at = 0; at < array.values.size(); ++at) {
        if (mask.values[at % mask.values.size()] == 0.0) array.values[at] = value;
      }
      problem.Set(name, array);
    }
    ExpectAsOracle(problem, expected);
  }
}

TEST_P(ExtendedTest, BiasTangentOfAForbiddenPairContributesNothing) {
  Problem problem = MakeProblem(CaseNamed("bias_full"), DType::kFloat64);
  const Arrays expected = DenseOracle(problem);
  const Array mask = Decode(*problem.mask);
  Array bias_dot = problem.Values().at("bias_dot");
  int forbidden = 0;
  for (std::size_t at = 0; at < mask.values.size(); ++at) {
    if (!std::isinf(mask.values[at])) continue;
    bias_dot.values[at] = kNan;
    ++forbidden;
  }
  ASSERT_GT(forbidden, 100);
  problem.Set("bias_dot", bias_dot);
  ExpectAsOracle(problem, expected);
}

TEST_P(ExtendedTest, AbsentTensorsAreZero) {
  for (const char* case_name : {"bias_softcap", "bias_key_row"}) {
    const Problem whole = MakeProblem(CaseNamed(case_name), DType::kFloat64);
    const std::string names[] = {"o_bar", "lse_bar_dot", "bias_dot", "q_dot", "o_bar_dot"};
    for (unsigned present = 0; present < 32; ++present) {
      Problem absent = whole;
      for (unsigned i = 0; i < 5; ++i) {
        if ((present >> i & 1) == 0) absent.inputs.erase(names[i]);
      }
      absent.inputs.erase("k_dot");
      SCOPED_TRACE(testing::Message() << case_name << " tensors " << present);
      const Arrays expected = DenseOracle(absent);
      for (const Operation operation : {Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
        ExpectNear(RunArrays(target(), operation, absent), expected,
                   AgainstOracle(target().arithmetic, DType::kFloat64));
      }
    }
  }
}

TEST_P(ExtendedTest, DeterministicIsBitwiseRepeatable) {
  ProblemCase c = CaseNamed("everything_extended");
  c.options.deterministic = true;
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    const Problem problem = MakeProblem(c, dtype);
    for (const Operation operation : kOperations) {
      const auto first = RunTensors(target(), operation, problem);
      ASSERT_TRUE(first.ok()) << first.status();
      for (int run = 0; run < 5; ++run) {
        const auto again = RunTensors(target(), operation, problem);
        ASSERT_TRUE(again.ok()) << again.status();
        for (const auto& [name, tensor] : *first) {
          EXPECT_EQ(again->at(name).bytes, tensor.bytes) << OperationName(operation) << name;
        }
      }
    }
  }
}

TEST_P(ExtendedTest, AnyNumberOfThreadsGivesTheSameBits) {
  if (!target().is_reference()) GTEST_SKIP() << "threads are the reference's";
  for (const char* case_name : {"bias_of_heads", "bias_of_keys", "bias_of_queries", "bias_number",
                                "bias_of_pairs", "everything_extended", "documents_causal"}) {
    const Problem problem = MakeProblem(CaseNamed(case_name), DType::kFloat64);
    const auto expected = RunTensors(target(), Operation::kHvp, problem);
    ASSERT_TRUE(expected.ok()) << expected.status();
    for (const int threads : {1, 2, 3, 7}) {
      const std::unique_ptr<Backend> backend = MakeCpuBackend({.threads = threads});
      Target other = target();
      other.backend = backend.get();
      const auto actual = RunTensors(other, Operation::kHvp, problem);
      ASSERT_TRUE(actual.ok()) << actual.status();
      for (const auto& [name, tensor] : *expected) {
        EXPECT_EQ(actual->at(name).bytes, tensor.bytes) << case_name << " " << name;
      }
    }
  }
}

// Whatever the lengths hold, a run ends and touches nothing but its tensors (under the address
// sanitizer), and rows see their own document's keys at most.
TEST_P(ExtendedTest, WrongLengthsStayInBounds) {
  const std::vector<std::int64_t> wrong[] = {{0, 40, 20, 1 << 30, -7, 3, 150},
                                             {-5, -4, -3, -2, -1, 0, 1},
                                             {200, 300, 400, 500, 600, 700, 800},
                                             {150, 100, 80, 60, 40, 20, 0}};
  for (const auto& of_q : wrong) {
    for (const auto& of_kv : wrong) {
      Problem problem = MakeProblem(CaseNamed("documents"), DType::kFloat64);
      problem.option_tensors["cu_seqlens_q"] = EncodeInt32(of_q);
      problem.option_tensors["cu_seqlens_kv"] = EncodeInt32(of_kv);
      for (const Operation operation : kOperations) RunArrays(target(), operation, problem);
    }
  }
  Problem problem = MakeProblem(CaseNamed("key_lengths"), DType::kFloat64);
  problem.option_tensors["kv_lengths"] = EncodeInt32({-1, 1 << 30, 150, 151});
  for (const Operation operation : kOperations) RunArrays(target(), operation, problem);
}

INSTANTIATE_TEST_SUITE_P(Conformance, ExtendedTest, testing::ValuesIn(Targets()), TargetTestName);

}  // namespace
}  // namespace theria::conformance
