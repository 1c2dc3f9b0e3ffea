// RunTogether of the CPU backend: every result is bit for bit that of Run.

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "kernels/cpu/backend.h"

namespace theria {
namespace {

constexpr DType kDType = DType::kFloat32;

class Stopped : public Interrupt {
 public:
  absl::Status Check() const override { return absl::CancelledError("stopped"); }
};

// An HVP of random inputs, with memory for all outputs.
class Problem {
 public:
  explicit Problem(unsigned seed) : random_(seed) {
    for (auto member : {&AttentionInputs::q, &AttentionInputs::q_dot}) {
      inputs_.*member = Fill({2, 4, 9, 8});
    }
    for (auto member : {&AttentionInputs::k, &AttentionInputs::k_dot}) {
      inputs_.*member = Fill({2, 2, 11, 8});
    }
    for (auto member : {&AttentionInputs::v, &AttentionInputs::v_dot}) {
      inputs_.*member = Fill({2, 2, 11, 5});
    }
    inputs_.o_bar = Fill({2, 4, 9, 5});
    inputs_.options.is_causal = true;
    inputs_.options.dropout = {.probability = 0.25, .seed = 3, .offset = 1};
  }

  const AttentionInputs& inputs() const { return inputs_; }
  AttentionProblem problem() const { return *Validate(Operation::kHvp, inputs_); }

  // Fresh memory for every output, filled with a value that no result has.
  const AttentionOutputs& MakeOutputs() {
    outputs_ = {};
    memory_.clear();
    for (const OutputField& field : kOutputFields) {
      if (!HasOutput(problem(), field.name)) continue;
      MutableTensorView view = OutputLayout(problem(), field.name);
      view.data = memory_.emplace_back(view.SizeBytes(), '\x7F').data();
      outputs_.*field.member = view;
    }
    return outputs_;
  }
  const std::vector<std::vector<char>>& results() const { return memory_; }

 private:
  TensorView Fill(std::initializer_list<std::int64_t> shape) {
    std::size_t count = 1;
    for (const std::int64_t extent : shape) count *= static_cast<std::size_t>(extent);
    std::normal_distribution<float> normal;
    std::vector<float>& values = values_.emplace_back(count);
    for (float& value : values) value = normal(random_);
    return RowMajorView<const void>(values.data(), kDType, shape);
  }

  std::mt19937 random_;
  std::vector<std::vector<float>> values_;  // moving a vector keeps its elements in place
  std::vector<std::vector<char>> memory_;
  AttentionInputs inputs_;
  AttentionOutputs outputs_;
};

class TogetherTest : public testing::TestWithParam<int> {};

TEST_P(TogetherTest, IsBitForBitRun) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend({.threads = GetParam()});
  const Stopped stopped;
  constexpr std::size_t kStopped = 4;
  std::vector<std::unique_ptr<Problem>> problems;
  std::vector<std::vector<std::vector<char>>> expected;
  std::vector<Computation> computations;
  for (unsigned seed = 0; seed < 17; ++seed) {
    Problem& problem = *problems.emplace_back(std::make_unique<Problem>(seed));
    const auto alone =
        backend->Run(problem.problem(), problem.inputs(), problem.MakeOutputs(), NoInterrupt());
    ASSERT_TRUE(alone.ok()) << alone.status();
    expected.push_back(problem.results());
    const Interrupt* interrupt = &NoInterrupt();
    if (seed == kStopped) interrupt = &stopped;
    computations.push_back({&problem.inputs(), &problem.MakeOutputs(), interrupt});
  }
  backend->RunTogether(problems.front()->problem(), absl::MakeSpan(computations));
  for (std::size_t i = 0; i < computations.size(); ++i) {
    const auto& report = computations[i].report;
    if (i == kStopped) {
      EXPECT_EQ(report.status().code(), absl::StatusCode::kCancelled);
      continue;
    }
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->kernel, "cpu_reference_hvp");
    EXPECT_EQ(problems[i]->results(), expected[i]) << i;
  }
}

TEST_P(TogetherTest, OfNoneIsNothing) {
  MakeCpuBackend({.threads = GetParam()})->RunTogether(Problem(1).problem(), {});
}

INSTANTIATE_TEST_SUITE_P(Threads, TogetherTest, testing::Values(1, 2, 5));

}  // namespace
}  // namespace theria
