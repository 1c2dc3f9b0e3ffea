#include "client/cli/parity/parity.h"

#include <algorithm>
#include <string>
#include <vector>

#include "client/cli/parity/parity_report.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/cli/faulty_attention.h"

namespace theria::cli {
namespace {

using client::DType;
using client::Implementation;
using client::Operation;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// The cases of the quick suite that `chosen` accepts, against explicit attention.
template <typename Chosen>
std::vector<ParityResult> Check(client::Attention& target, const client::ServerInfo& info,
                                Chosen chosen) {
  std::vector<ParityCase> cases = PlanParity(Suite::kQuick, info);
  std::erase_if(cases, [&](const ParityCase& what) { return !chosen(what); });
  return RunParity(target, info, nullptr, cases, [](const ParityResult&) {}).value();
}

std::vector<ParityResult> Check(client::Attention& target, const client::ServerInfo& info) {
  return Check(target, info, [](const ParityCase&) { return true; });
}

bool IsIdentity(const ParityCase& what) { return what.identity.has_value(); }

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
  FaultyAttention target;
  const std::vector<ParityResult> results = Check(target, FaultyAttention::Info());
  for (const ParityResult& result : results) {
    EXPECT_EQ(result.outcome, Outcome::kHeld) << result.what.Name() << ": " << result.reason;
    EXPECT_FALSE(result.comparisons.empty()) << result.what.Name();
  }
  EXPECT_GT(results.size(), 500u);
}

// Where a fault must be found.
struct Control {
  Fault fault;
  std::string name;
  std::string option_class;
  Operation operation;
  std::vector<DType> dtypes = {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16};
};

class FaultTest : public testing::TestWithParam<Control> {
 protected:
  // Of this control's option class and operation.
  static std::vector<ParityResult> CheckOneClass(client::Attention& target) {
    return Check(target, FaultyAttention::Info(), [](const ParityCase& what) {
      return what.problem.option_class == GetParam().option_class && !IsIdentity(what) &&
             what.operation == GetParam().operation;
    });
  }
};

TEST_P(FaultTest, IsFoundInEveryDType) {
  FaultyAttention faulty(GetParam().fault);
  const std::vector<ParityResult> results = CheckOneClass(faulty);
  for (const DType dtype : GetParam().dtypes) {
    EXPECT_THAT(
        Failures(results, [&](const ParityResult& result) { return result.what.dtype == dtype; }),
        Not(IsEmpty()))
        << client::DTypeName(dtype);
  }
  FaultyAttention right;
  EXPECT_THAT(Failures(CheckOneClass(right), [](const ParityResult&) { return true; }), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(
    Faults, FaultTest,
    testing::Values(
        Control{Fault::kCausalOffByOne, "CausalOffByOne", "causal", Operation::kForward},
        Control{Fault::kCausalOffByOne, "CausalOffByOneWindow", "causal window", Operation::kHvp},
        Control{Fault::kWindowOffByOneLeft, "WindowOffByOneLeft", "window", Operation::kForward},
        Control{Fault::kWindowOffByOneRight, "WindowOffByOneRight", "window", Operation::kVjp},
        Control{Fault::kIgnoresBoolMask, "IgnoresBoolMask", "bool mask", Operation::kForward},
        Control{Fault::kIgnoresBoolMask, "IgnoresRowMask", "masked rows", Operation::kVjp},
        Control{Fault::kIgnoresFloatMask, "IgnoresFloatMask", "additive mask", Operation::kForward},
        Control{Fault::kIgnoresFloatMask, "IgnoresFiniteMask", "half of keys -1e9",
                Operation::kJvp},
        Control{Fault::kNegatesFloatMask, "NegatesFloatMask", "additive mask", Operation::kVjp},
        Control{Fault::kForgetsDropoutScale, "ForgetsDropoutScale", "dropout", Operation::kForward},
        Control{Fault::kOtherDropoutBits, "OtherDropoutBits", "dropout", Operation::kForward},
        Control{Fault::kIgnoresDropout, "IgnoresDropout", "dropout", Operation::kVjp},
        Control{Fault::kIgnoresScale, "IgnoresScale", "scale", Operation::kJvp},
        Control{Fault::kTransposesGroups, "TransposesGroups", "grouped queries",
                Operation::kForward},
        Control{Fault::kRoundsLse,
                "RoundsLseOfLargeScores",
                "tied scores 130^2, saved",
                Operation::kVjp,
                {DType::kFloat64, DType::kFloat32}},
        Control{Fault::kRoundsLse,
                "RoundsLseOfMaskedRows",
                "rows -1e9, saved",
                Operation::kHvp,
                {DType::kFloat32, DType::kFloat16, DType::kBFloat16}},
        Control{Fault::kSpreadsNaN, "SpreadsUnseenNaN", "unseen NaN, causal", Operation::kForward},
        Control{Fault::kSpreadsNaN, "SpreadsNaN", "NaN in v", Operation::kForward},
        Control{Fault::kSwallowsNaN, "SwallowsNaN", "NaN in q", Operation::kVjp},
        Control{Fault::kSwallowsNaN, "SwallowsNaNOfTangent", "NaN in k_dot", Operation::kHvp},
        Control{Fault::kIgnoresQDot, "IgnoresQDot", "plain", Operation::kJvp},
        Control{Fault::kIgnoresKDot, "IgnoresKDot", "plain", Operation::kHvp},
        Control{Fault::kIgnoresVDot, "IgnoresVDot", "plain", Operation::kJvp},
        Control{Fault::kIgnoresObarDot, "IgnoresObarDot", "plain", Operation::kHvp},
        Control{Fault::kFrozenStatistics, "FrozenStatistics", "plain", Operation::kHvp},
        Control{Fault::kNaNInEmptyRows, "NaNInEmptyRows", "masked rows", Operation::kForward},
        Control{Fault::kIgnoresStrides, "IgnoresStrides", "strides", Operation::kForward}),
    [](const auto& info) { return info.param.name; });

TEST(ParityTest, OneWrongElementIsSeen) {
  FaultyAttention target(Fault::kOneWrongElement);
  const std::vector<ParityResult> results =
      Check(target, FaultyAttention::Info(),
            [](const ParityCase& what) { return what.problem.option_class == "plain"; });
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

TEST(ParityTest, IdentitiesFindFrozenStatistics) {
  FaultyAttention frozen(Fault::kFrozenStatistics);
  const std::vector<ParityResult> results = Check(frozen, FaultyAttention::Info(), IsIdentity);
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
  FaultyAttention target(Fault::kIgnoresObarDot);
  EXPECT_THAT(Failures(Check(target, FaultyAttention::Info(), IsIdentity),
                       [](const ParityResult& result) {
                         return result.what.identity == Identity::kFiniteDifferences;
                       }),
              Not(IsEmpty()));
}

TEST(ParityTest, SkipsWhatTheTargetDoesNotListAndSaysSo) {
  client::ServerInfo info = FaultyAttention::Info(Implementation::kFused);
  std::erase_if(info.kernels, [](const client::KernelSupport& kernel) {
    return kernel.dtype == DType::kFloat64 || kernel.operation == Operation::kHvp;
  });
  FaultyAttention target;
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
  client::ServerInfo info = FaultyAttention::Info(Implementation::kFused);
  const client::ServerInfo unfused = FaultyAttention::Info(Implementation::kUnfused);
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
  const std::vector<ParityResult> results = Check(target, FaultyAttention::Info());
  EXPECT_EQ(Count(results).held, 0);
  EXPECT_EQ(Count(results).failed, static_cast<int>(results.size()));
  EXPECT_THAT(results[0].reason, HasSubstr("no such kernel"));
}

TEST(ParityTest, AnUnreachableTargetEndsTheRun) {
  const client::ServerInfo info = FaultyAttention::Info();
  BrokenAttention target(absl::UnavailableError("gone"));
  FaultyAttention reference;
  const auto run = [&](client::Attention& a, client::Attention& b) {
    return RunParity(a, info, &b, PlanParity(Suite::kQuick, info), [](const ParityResult&) {})
        .status();
  };
  EXPECT_TRUE(absl::IsUnavailable(run(target, reference)));
  EXPECT_TRUE(absl::IsUnavailable(run(reference, target)));
}

TEST(ParityReportTest, CountsWorstErrorsAndFailures) {
  FaultyAttention target(Fault::kCausalOffByOne);
  const std::vector<ParityResult> results = Check(target, FaultyAttention::Info());
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
