#include "client/cli/parity/suite.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "client/cli/parity/drawn_problems.h"
#include "client/cpp/src/attention_codec.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "theria/v1/attention.pb.h"

namespace theria::cli {
namespace {

TEST(SuiteTest, NamesAreUnique) {
  for (const Suite suite : {Suite::kQuick, Suite::kFull}) {
    std::set<std::string> names;
    for (const Problem& problem : Problems(suite)) {
      const std::string name = problem.option_class + problem.Sizes() +
                               (problem.only_q_tangent ? "q" : "") +
                               (problem.only_v_tangent ? "v" : "") + problem.variant;
      EXPECT_TRUE(names.insert(name).second) << name;
      EXPECT_EQ(problem.heads_kv == 0 ? problem.heads_q : problem.heads_q % problem.heads_kv, 0)
          << name;
    }
  }
}

// In at least one problem of the quick suite, each option of the wire is what it is not by default.
TEST(SuiteTest, QuickHasEveryOption) {
  std::set<std::string> used = {"implementation"};  // each case has one
  for (const Problem& problem : Problems(Suite::kQuick)) {
    const client::AttentionOptions options =
        MakeRequest(problem, client::Operation::kForward, client::DType::kFloat32).options;
    for (const client::OptionTensor& option : client::kOptionTensors) {
      if ((options.*option.member).has_value()) used.insert(std::string(option.name));
    }
    v1::AttentionOptions encoded, defaults;
    client::EncodeOptions(options, &encoded);
    client::EncodeOptions({}, &defaults);
    google::protobuf::util::MessageDifferencer differencer;
    for (int i = 0; i < encoded.GetDescriptor()->field_count(); ++i) {
      const auto* const field = encoded.GetDescriptor()->field(i);
      if (!differencer.CompareWithFields(encoded, defaults, {field}, {field})) {
        used.insert(std::string(field->name()));
      }
    }
  }
  for (int i = 0; i < v1::AttentionOptions::descriptor()->field_count(); ++i) {
    const std::string name(v1::AttentionOptions::descriptor()->field(i)->name());
    EXPECT_TRUE(used.contains(name)) << name;
  }
}

TEST(SuiteTest, DrawnProblemsAreManyAndValid) {
  const std::vector<Problem> problems = DrawnProblems(300);
  EXPECT_EQ(problems.size(), 300u);
  const auto count = [&](auto chosen) {
    return std::count_if(problems.begin(), problems.end(), chosen);
  };
  EXPECT_GT(count([](const Problem& problem) { return problem.options.softcap.has_value(); }), 60);
  EXPECT_GT(count([](const Problem& problem) { return !problem.documents_q.empty(); }), 40);
  EXPECT_GT(count([](const Problem& problem) { return problem.kv_lengths && problem.bias; }), 5);
  for (const Problem& problem : problems) {
    EXPECT_TRUE(problem.documents_q.empty() || !problem.kv_lengths) << problem.variant;
    EXPECT_EQ(problem.documents_q.size(), problem.documents_kv.size()) << problem.variant;
  }
}

TEST(SuiteTest, FullHasEveryHardInputWithAndWithoutSavedStatistics) {
  const std::vector<Problem> problems = Problems(Suite::kFull);
  EXPECT_GT(problems.size(), 2 * Problems(Suite::kQuick).size());
  const auto count = [&](auto chosen) {
    return std::count_if(problems.begin(), problems.end(), chosen);
  };
  for (const bool saved : {false, true}) {
    for (const double magnitude : {9.0, 30.0, 130.0}) {
      for (const bool ties : {false, true}) {
        EXPECT_EQ(count([&](const Problem& problem) {
                    return problem.saved == saved && problem.magnitude == magnitude &&
                           problem.ties == ties;
                  }),
                  2)
            << magnitude;
      }
    }
    for (const MaskKind mask :
         {MaskKind::kFilledHalf, MaskKind::kFilledRows, MaskKind::kLeftPadding}) {
      for (const MaskFill fill : {MaskFill::kMinusBillion, MaskFill::kLowest}) {
        EXPECT_EQ(count([&](const Problem& problem) {
                    return problem.saved == saved && problem.mask == mask && problem.fill == fill;
                  }),
                  2);
      }
    }
    for (const char* input : {"q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot"}) {
      EXPECT_GE(count([&](const Problem& problem) {
                  return problem.saved == saved && problem.poisoned == input;
                }),
                2)
          << input;
    }
    EXPECT_EQ(count([&](const Problem& problem) {
                return problem.saved == saved && problem.poison == Poison::kUnseen;
              }),
              10);
  }
}

}  // namespace
}  // namespace theria::cli
