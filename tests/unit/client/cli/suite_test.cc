#include "client/cli/parity/suite.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace theria::cli {
namespace {

TEST(SuiteTest, NamesAreUnique) {
  for (const Suite suite : {Suite::kQuick, Suite::kFull}) {
    std::set<std::string> names;
    for (const Problem& problem : Problems(suite)) {
      const std::string name = problem.option_class + problem.Sizes() +
                               (problem.only_q_tangent ? "q" : "") +
                               (problem.only_v_tangent ? "v" : "");
      EXPECT_TRUE(names.insert(name).second) << name;
      EXPECT_EQ(problem.heads_q % problem.heads_kv, 0) << name;
    }
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
