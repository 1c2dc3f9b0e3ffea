// How a run goes: repeatable to the bit, many at once, interrupted, and what
// it reports.

#include <atomic>
#include <thread>

#include "kernels/cpu/backend.h"
#include "tests/conformance/conformance_test.h"

namespace theria::conformance {
namespace {

class ExecutionTest : public TargetTest {};

TEST_P(ExecutionTest, BitwiseRepeatable) {
  for (const char* case_name : {"many_threads", "everything", "long_keys"}) {
    const Problem problem = MakeProblem(CaseNamed(case_name), DType::kFloat64);
    for (const Operation operation : kOperations) {
      const auto first = RunTensors(target(), operation, problem);
      ASSERT_TRUE(first.ok()) << first.status();
      for (int run = 0; run < 5; ++run) {
        const auto again = RunTensors(target(), operation, problem);
        ASSERT_TRUE(again.ok()) << again.status();
        for (const auto& [name, tensor] : *first) {
          EXPECT_EQ(again->at(name).bytes, tensor.bytes) << case_name << " " << name;
        }
      }
    }
  }
}

TEST_P(ExecutionTest, TogetherIsBitwiseAlone) {
  for (const DType dtype : {DType::kFloat64, DType::kBFloat16}) {
    std::vector<Problem> problems(5, MakeProblem(CaseNamed("everything"), dtype));
    for (std::size_t i = 0; i < problems.size(); ++i) {
      const Array q = problems[i].Values().at("q");
      problems[i].Set("q", Combine(1.0 + static_cast<double>(i), q, 0.0, q));
    }
    for (const Operation operation : kOperations) {
      const auto together = RunTensorsTogether(target(), operation, problems);
      ASSERT_EQ(together.size(), problems.size()) << together.front().status();
      for (std::size_t i = 0; i < problems.size(); ++i) {
        const auto alone = RunTensors(target(), operation, problems[i]);
        ASSERT_TRUE(alone.ok() && together[i].ok()) << alone.status() << together[i].status();
        for (const auto& [name, tensor] : *alone) {
          EXPECT_EQ(together[i]->at(name).bytes, tensor.bytes) << OperationName(operation) << name;
        }
      }
    }
  }
}

TEST_P(ExecutionTest, ManyRunsAtOnce) {
  const Problem large = MakeProblem(CaseNamed("many_threads"), DType::kFloat64);
  const Problem small = MakeProblem(CaseNamed("grouped"), DType::kFloat16);
  const auto large_result = RunTensors(target(), Operation::kHvp, large);
  const auto small_result = RunTensors(target(), Operation::kVjp, small);
  ASSERT_TRUE(large_result.ok() && small_result.ok());
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([&, caller] {
      for (int run = 0; run < 5; ++run) {
        const bool is_large = (caller + run) % 2 == 0;
        const auto result = RunTensors(target(), is_large ? Operation::kHvp : Operation::kVjp,
                                       is_large ? large : small);
        const auto& expected = is_large ? large_result : small_result;
        if (!result.ok()) {
          ++wrong;
          continue;
        }
        for (const auto& [name, tensor] : *expected) {
          if (result->at(name).bytes != tensor.bytes) ++wrong;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

// Lets the first `calls` checks pass.
class StopAfter final : public Interrupt {
 public:
  explicit StopAfter(int calls) : left_(calls) {}
  absl::Status Check() const override {
    return left_.fetch_sub(1) > 0 ? absl::OkStatus() : absl::CancelledError("enough");
  }

 private:
  mutable std::atomic<int> left_;
};

TEST_P(ExecutionTest, InterruptStopsARun) {
  const Problem problem = MakeProblem(CaseNamed("many_threads"), DType::kFloat64);
  for (const Operation operation : kOperations) {
    const auto expected = RunTensors(target(), operation, problem);
    ASSERT_TRUE(expected.ok()) << expected.status();
    // A kernel that was launched runs to its end.
    for (const int calls :
         target().is_reference() ? std::vector<int>{0, 1, 2, 7, 20, 50} : std::vector<int>{0}) {
      const auto result = RunTensors(target(), operation, problem, {}, StopAfter(calls));
      EXPECT_EQ(result.status(), absl::CancelledError("enough"))
          << OperationName(operation) << " after " << calls;
    }
    // And leaves the backend as good as new.
    const auto again = RunTensors(target(), operation, problem);
    ASSERT_TRUE(again.ok()) << again.status();
    for (const auto& [name, tensor] : *expected) EXPECT_EQ(again->at(name).bytes, tensor.bytes);
  }
}

TEST_P(ExecutionTest, ReportSaysWhatRan) {
  const Problem problem = MakeProblem(CaseNamed("small"), DType::kFloat32);
  AttentionInputs inputs;
  AttentionOutputs outputs;
  Memory& memory = target().backend->memory();
  std::vector<Buffer> buffers;
  for (const auto& [name, member] : {std::pair{"q", &AttentionInputs::q},
                                     {"k", &AttentionInputs::k},
                                     {"v", &AttentionInputs::v}}) {
    const HostTensor& tensor = problem.inputs.at(name);
    buffers.push_back(*memory.Allocate(tensor.bytes.size()));
    ASSERT_TRUE(
        memory.CopyFromHost(buffers.back().data(), tensor.bytes.data(), tensor.bytes.size()).ok());
    inputs.*member = tensor.View(buffers.back().data());
  }
  for (const Implementation asked : {Implementation::kAuto, target().implementation}) {
    inputs.options.implementation = asked;
    const auto valid = Validate(Operation::kForward, inputs);
    ASSERT_TRUE(valid.ok()) << valid.status();
    EXPECT_TRUE(target().backend->Supports(*valid, inputs.options).ok());
    const auto report = target().backend->Run(*valid, inputs, outputs, NoInterrupt());
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_NE(report->implementation, Implementation::kAuto);
    if (asked != Implementation::kAuto) {
      EXPECT_EQ(report->implementation, asked);
    }
    EXPECT_FALSE(report->kernel.empty());
    EXPECT_EQ(report->device, target().backend->Devices().front().id);
    EXPECT_GT(report->compute_time, absl::ZeroDuration());
  }
}

INSTANTIATE_TEST_SUITE_P(Conformance, ExecutionTest, testing::ValuesIn(Targets()), TargetTestName);

TEST(CpuThreadsTest, ResultsDoNotDependOnTheirNumber) {
  const Problem problem = MakeProblem(CaseNamed("many_threads"), DType::kFloat64);
  Target target = Targets().front();
  const auto expected = RunTensors(target, Operation::kHvp, problem);
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const int threads : {1, 2, 3, 16}) {
    const std::unique_ptr<Backend> backend = MakeCpuBackend({.threads = threads});
    target.backend = backend.get();
    const auto actual = RunTensors(target, Operation::kHvp, problem);
    ASSERT_TRUE(actual.ok()) << actual.status();
    for (const auto& [name, tensor] : *expected) {
      EXPECT_EQ(actual->at(name).bytes, tensor.bytes) << name << " on " << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace theria::conformance
