#include "client/cli/parity/parity.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "client/cli/parity/parity_report.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/cli/faulty_attention.h"
#include "theria/v1/attention.pb.h"

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
  FaultyAttention faulty;
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
  FaultyAttention faulty = GetParam().faulty;
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
        Control{FaultyAttention(Fault::kCausalOffByOne), "CausalOffByOne", "causal",
                Operation::kForward},
        Control{FaultyAttention(Fault::kCausalOffByOne), "CausalOffByOneWindow", "causal window",
                Operation::kHvp},
        Control{FaultyAttention(Fault::kWindowOffByOneLeft), "WindowOffByOneLeft", "window",
                Operation::kForward},
        Control{FaultyAttention(Fault::kWindowOffByOneRight), "WindowOffByOneRight", "window",
                Operation::kVjp},
        Control{FaultyAttention(Fault::kIgnoresBoolMask), "IgnoresBoolMask", "bool mask",
                Operation::kForward},
        Control{FaultyAttention(Fault::kIgnoresBoolMask), "IgnoresRowMask", "masked rows",
                Operation::kVjp},
        Control{FaultyAttention(Fault::kIgnoresFloatMask), "IgnoresFloatMask", "additive mask",
                Operation::kForward},
        Control{FaultyAttention(Fault::kIgnoresFloatMask), "IgnoresFiniteMask", "half of keys -1e9",
                Operation::kJvp},
        Control{FaultyAttention(Fault::kNegatesFloatMask), "NegatesFloatMask", "additive mask",
                Operation::kVjp},
        Control{FaultyAttention(Fault::kForgetsDropoutScale), "ForgetsDropoutScale", "dropout",
                Operation::kForward},
        Control{FaultyAttention(Fault::kOtherDropoutBits), "OtherDropoutBits", "dropout",
                Operation::kForward},
        Control{FaultyAttention(Fault::kSlopesOfOtherHeads), "SlopesOfOtherHeads", "alibi",
                Operation::kForward},
        Control{FaultyAttention(Fault::kLengthOffByOne), "LengthOffByOne", "key lengths",
                Operation::kVjp},
        Control{FaultyAttention(Fault::kDocumentOffByOne), "DocumentOffByOne", "packed",
                Operation::kForward},
        Control{FaultyAttention(Fault::kBiasBarOfOneBatch), "BiasBarOfOneBatch", "head bias",
                Operation::kVjp},
        Control{FaultyAttention(Fault::kBiasBarOfOneBatch), "BiasBarDotOfOneBatch", "head bias",
                Operation::kHvp},
        Control{FaultyAttention(Fault::kTransposesGroups), "TransposesGroups", "grouped queries",
                Operation::kForward},
        Control{FaultyAttention(Fault::kRoundsLse),
                "RoundsLseOfLargeScores",
                "tied scores 130^2, saved",
                Operation::kVjp,
                {DType::kFloat64, DType::kFloat32}},
        Control{FaultyAttention(Fault::kRoundsLse),
                "RoundsLseOfMaskedRows",
                "rows -1e9, saved",
                Operation::kHvp,
                {DType::kFloat32, DType::kFloat16, DType::kBFloat16}},
        Control{FaultyAttention(Fault::kSpreadsNaN), "SpreadsUnseenNaN", "unseen NaN, causal",
                Operation::kForward},
        Control{FaultyAttention(Fault::kSpreadsNaN), "SpreadsNaN", "NaN in v", Operation::kForward},
        Control{FaultyAttention(Fault::kSwallowsNaN), "SwallowsNaN", "NaN in q", Operation::kVjp},
        Control{FaultyAttention(Fault::kSwallowsNaN), "SwallowsNaNOfTangent", "NaN in k_dot",
                Operation::kHvp},
        Control{FaultyAttention(Fault::kFrozenStatistics), "FrozenStatistics", "plain",
                Operation::kHvp},
        Control{FaultyAttention(Fault::kNaNInEmptyRows), "NaNInEmptyRows", "masked rows",
                Operation::kForward},
        Control{FaultyAttention(Fault::kIgnoresStrides), "IgnoresStrides", "strides",
                Operation::kForward}),
    [](const auto& info) { return info.param.name; });

// The option or optional input that a target ignores, and where that must be found.
struct Ignored {
  std::string name;
  std::string option_class;
  Operation operation;
};
const Ignored kIgnored[] = {
    {"scale", "scale", Operation::kJvp},
    {"is_causal", "causal", Operation::kForward},
    {"window", "window", Operation::kHvp},
    {"mask", "bool mask", Operation::kVjp},
    {"dropout", "dropout", Operation::kVjp},
    {"softcap", "soft cap", Operation::kForward},
    {"alibi_slopes", "alibi", Operation::kVjp},
    {"causal_alignment", "lower right", Operation::kForward},
    {"causal_alignment", "alibi, lower right", Operation::kHvp},
    {"kv_lengths", "key lengths", Operation::kJvp},
    {"cu_seqlens_q", "packed", Operation::kForward},
    {"cu_seqlens_kv", "packed, lower right", Operation::kHvp},
    {"deterministic", "deterministic", Operation::kVjp},
    {"o_bar", "plain", Operation::kVjp},
    {"lse_bar", "lse_bar", Operation::kVjp},
    {"q_dot", "plain", Operation::kJvp},
    {"k_dot", "plain", Operation::kHvp},
    {"v_dot", "plain", Operation::kJvp},
    {"o_bar_dot", "plain", Operation::kHvp},
    {"lse_bar_dot", "lse_bar", Operation::kHvp},
    {"bias_dot", "bias", Operation::kHvp},
    {"bias_dot", "bias", Operation::kJvp},
};

class IgnoredTest : public testing::TestWithParam<Ignored> {};

TEST_P(IgnoredTest, IsFoundInEveryDType) {
  FaultyAttention faulty = FaultyAttention::Ignoring(GetParam().name);
  const std::vector<ParityResult> results =
      Check(faulty, FaultyAttention::Info(), [](const ParityCase& what) {
        return what.problem.option_class == GetParam().option_class && !IsIdentity(what) &&
               what.operation == GetParam().operation;
      });
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    EXPECT_THAT(
        Failures(results, [&](const ParityResult& result) { return result.what.dtype == dtype; }),
        Not(IsEmpty()))
        << client::DTypeName(dtype);
  }
}

INSTANTIATE_TEST_SUITE_P(Options, IgnoredTest, testing::ValuesIn(kIgnored), [](const auto& info) {
  return info.param.name + client::OperationName(info.param.operation).data();
});

// A field of the wire without a planted fault here is an option that parity may not test at all.
TEST(ParityTest, EveryFieldOfTheWireHasAPlantedFault) {
  std::set<std::string> found = {
      "q",
      "k",
      "v",  // without which there is no call
      "o",
      "lse",  // hints, which change no result
      "options",
      "outputs",
      "precision",       // to ignore FAST is to be more accurate
      "implementation",  // whose results are alike
  };
  for (const Ignored& ignored : kIgnored) found.insert(ignored.name);
  for (const google::protobuf::Descriptor* message :
       {v1::AttentionOptions::descriptor(), v1::ForwardRequest::descriptor(),
        v1::VjpRequest::descriptor(), v1::JvpRequest::descriptor(), v1::HvpRequest::descriptor()}) {
    for (int i = 0; i < message->field_count(); ++i) {
      EXPECT_TRUE(found.contains(std::string(message->field(i)->name())))
          << message->field(i)->full_name();
    }
  }
}

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
  FaultyAttention target = FaultyAttention::Ignoring("o_bar_dot");
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
