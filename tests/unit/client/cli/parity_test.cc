#include "client/cli/parity/parity.h"

#include <algorithm>
#include <string>
#include <vector>

#include "client/cli/parity/parity_report.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/cli/naive_attention.h"

namespace theria::cli {
namespace {

using client::DType;
using client::Implementation;
using client::Operation;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::vector<ParityResult> Check(client::Attention& target, const client::ServerInfo& info) {
  NaiveAttention reference;
  return RunParity(target, info, reference, PlanParity(Suite::kQuick, info),
                   [](const ParityResult&) {})
      .value();
}

// The names of the failed cases that `chosen` accepts.
template <typename Chosen>
std::vector<std::string> Failures(const std::vector<ParityResult>& results, Chosen chosen) {
  std::vector<std::string> names;
  for (const ParityResult& result : results) {
    if (result.outcome == Outcome::kFailed && chosen(result)) names.push_back(result.what.Name());
  }
  return names;
}

TEST(ParityTest, ARightTargetHoldsEverywhere) {
  NaiveAttention target;
  const std::vector<ParityResult> results = Check(target, NaiveAttention::Info());
  for (const ParityResult& result : results) {
    EXPECT_EQ(result.outcome, Outcome::kHeld) << result.what.Name() << ": " << result.reason;
    EXPECT_FALSE(result.comparisons.empty()) << result.what.Name();
  }
  EXPECT_GT(results.size(), 200u);
}

// Negative controls: a planted defect must be seen, by the reference and where it breaks an
// identity by that too.
struct Control {
  Defect defect;
  std::string name;
  std::string option_class;  // where it must be seen, for every dtype
  Operation operation;
};

class DefectTest : public testing::TestWithParam<Control> {};

TEST_P(DefectTest, IsSeenForEveryDType) {
  NaiveAttention target(GetParam().defect);
  const std::vector<ParityResult> results = Check(target, NaiveAttention::Info());
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    EXPECT_THAT(Failures(results,
                         [&](const ParityResult& result) {
                           return !result.what.identity.has_value() && result.what.dtype == dtype &&
                                  result.what.operation == GetParam().operation &&
                                  result.what.problem.option_class == GetParam().option_class;
                         }),
                Not(IsEmpty()))
        << client::DTypeName(dtype);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Defects, DefectTest,
    testing::Values(
        Control{Defect::kFrozenStatistics, "FrozenStatistics", "plain", Operation::kHvp},
        Control{Defect::kIgnoresCausal, "IgnoresCausal", "causal", Operation::kForward},
        Control{Defect::kIgnoresDropout, "IgnoresDropout", "dropout", Operation::kVjp},
        Control{Defect::kIgnoresScale, "IgnoresScale", "scale", Operation::kJvp},
        Control{Defect::kTransposesGroups, "TransposesGroups", "grouped queries",
                Operation::kForward},
        Control{Defect::kDropsObarDot, "DropsObarDot", "plain", Operation::kHvp},
        Control{Defect::kNaNInEmptyRows, "NaNInEmptyRows", "masked rows", Operation::kForward},
        Control{Defect::kIgnoresStrides, "IgnoresStrides", "strides", Operation::kForward},
        Control{Defect::kLosesMask, "LosesMask", "additive mask", Operation::kForward}),
    [](const auto& info) { return info.param.name; });

TEST(ParityTest, OneWrongElementIsSeen) {
  NaiveAttention target(Defect::kOneWrongElement);
  const std::vector<ParityResult> results = Check(target, NaiveAttention::Info());
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kFloat16}) {
    EXPECT_THAT(Failures(results,
                         [&](const ParityResult& result) {
                           return !result.what.identity.has_value() && result.what.dtype == dtype &&
                                  result.what.operation == Operation::kVjp &&
                                  result.what.problem.option_class == "plain";
                         }),
                Not(IsEmpty()))
        << client::DTypeName(dtype);
  }
}

TEST(ParityTest, IdentitiesSeeDefectsWithoutAReference) {
  NaiveAttention frozen(Defect::kFrozenStatistics);
  const std::vector<ParityResult> results = Check(frozen, NaiveAttention::Info());
  for (const Identity identity :
       {Identity::kAdjoint, Identity::kSymmetry, Identity::kFiniteDifferences}) {
    EXPECT_THAT(
        Failures(results,
                 [&](const ParityResult& result) { return result.what.identity == identity; }),
        Not(IsEmpty()))
        << IdentityName(identity);
  }
}

// With o_bar_dot the product is no longer symmetric, but the differences still tell.
TEST(ParityTest, FiniteDifferencesSeeTheTangentOfTheCotangent) {
  NaiveAttention target(Defect::kDropsObarDot);
  EXPECT_THAT(Failures(Check(target, NaiveAttention::Info()),
                       [](const ParityResult& result) {
                         return result.what.identity == Identity::kFiniteDifferences;
                       }),
              Not(IsEmpty()));
}

TEST(ParityTest, SkipsWhatTheTargetDoesNotListAndSaysSo) {
  client::ServerInfo info = NaiveAttention::Info(Implementation::kFused);
  std::erase_if(info.kernels, [](const client::KernelSupport& kernel) {
    return kernel.dtype == DType::kFloat64 || kernel.operation == Operation::kHvp;
  });
  NaiveAttention target;
  const std::vector<ParityResult> results = Check(target, info);
  for (const ParityResult& result : results) {
    const bool unlisted =
        result.what.dtype == DType::kFloat64 || result.what.operation == Operation::kHvp;
    EXPECT_EQ(result.outcome, unlisted ? Outcome::kSkipped : Outcome::kHeld)
        << result.what.Name() << ": " << result.reason;
  }
  const std::string text = FormatParity(results);
  EXPECT_THAT(text, HasSubstr("skipped: fused float32: hvp with head dimensions 16 and 16"));
  EXPECT_THAT(text, HasSubstr("not offered by the target: reference"));
}

TEST(ParityTest, EveryListedImplementationIsPlanned) {
  client::ServerInfo info = NaiveAttention::Info(Implementation::kFused);
  const client::ServerInfo unfused = NaiveAttention::Info(Implementation::kUnfused);
  info.kernels.insert(info.kernels.end(), unfused.kernels.begin(), unfused.kernels.end());
  const std::vector<ParityCase> cases = PlanParity(Suite::kFull, info);
  for (const client::KernelSupport& kernel : info.kernels) {
    EXPECT_TRUE(std::any_of(cases.begin(), cases.end(), [&](const ParityCase& what) {
      return what.implementation == kernel.implementation && what.dtype == kernel.dtype &&
             what.operation == kernel.operation;
    }));
  }
}

// Fails every call with one code.
class BrokenAttention : public client::Attention {
 public:
  explicit BrokenAttention(absl::Status status) : status_(std::move(status)) {}
  absl::StatusOr<client::AttentionResult> Run(Operation, const client::AttentionRequest&,
                                              const client::CallOptions&) override {
    return status_;
  }

 private:
  const absl::Status status_;
};

TEST(ParityTest, AListedKernelThatIsNotThereFails) {
  BrokenAttention target(absl::UnimplementedError("no such kernel"));
  const std::vector<ParityResult> results = Check(target, NaiveAttention::Info());
  EXPECT_EQ(Count(results).held, 0);
  EXPECT_EQ(Count(results).failed, static_cast<int>(results.size()));
  EXPECT_THAT(results[0].reason, HasSubstr("no such kernel"));
}

TEST(ParityTest, AnUnreachableTargetEndsTheRun) {
  const client::ServerInfo info = NaiveAttention::Info();
  BrokenAttention target(absl::UnavailableError("gone"));
  NaiveAttention reference;
  const auto run = [&](client::Attention& a, client::Attention& b) {
    return RunParity(a, info, b, PlanParity(Suite::kQuick, info), [](const ParityResult&) {})
        .status();
  };
  EXPECT_TRUE(absl::IsUnavailable(run(target, reference)));
  EXPECT_TRUE(absl::IsUnavailable(run(reference, target)));
}

TEST(ParityReportTest, CountsWorstErrorsAndFailures) {
  NaiveAttention target(Defect::kIgnoresCausal);
  const std::vector<ParityResult> results = Check(target, NaiveAttention::Info());
  const std::string text = FormatParity(results);
  EXPECT_THAT(text, HasSubstr("FAIL "));
  EXPECT_THAT(text, HasSubstr("FAILED reference float32 forward causal 1x2/2 33x33 d16/16: o is"));
  const nlohmann::ordered_json json = ParityJson(results);
  EXPECT_EQ(json["cases"].size(), results.size());
  EXPECT_EQ(json["failed"], Count(results).failed);
  EXPECT_GT(json["failed"], 0);
  EXPECT_EQ(json["cases"][0]["comparisons"][0]["name"], "o");
}

}  // namespace
}  // namespace theria::cli
