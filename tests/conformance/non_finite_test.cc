// NaN and infinities: what takes no part contributes nothing, whatever it holds, and what takes
// part spreads as far as in explicit math, no further and no less.

#include <functional>
#include <limits>
#include <map>

#include "tests/conformance/conformance_test.h"
#include "tests/conformance/dense_oracle.h"

namespace theria::conformance {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// A way to forbid pairs, with places of interest.
struct Pattern {
  std::string name;
  ProblemCase shape;
  // Whether row i may see key j by the mask; empty: no mask. `additive`: -inf instead of false.
  std::function<bool(std::int64_t, std::int64_t)> mask = nullptr;
  bool additive = false;
  std::int64_t seen_by_some = 0;  // a key
  std::int64_t live_row = 0;
  std::int64_t first_unseen = -1;  // keys from here on are seen by no row; -1: none
  std::int64_t first_dead = -1;    // rows from here on see no key; -1: none
  std::map<std::string, std::vector<std::int64_t>> lengths = {};  // options of that name
};

AttentionOptions Causal() {
  AttentionOptions options;
  options.is_causal = true;
  return options;
}

AttentionOptions CappedCausal() {
  AttentionOptions options = Causal();
  options.softcap = 2.0;
  return options;
}

AttentionOptions CausalLowerRight() {
  AttentionOptions options = Causal();
  options.causal_alignment = CausalAlignment::kLowerRight;
  return options;
}

AttentionOptions Near4() {
  AttentionOptions options;
  options.window = Window{4, 4};
  return options;
}

// Rows below 18 see every other key below 50, rows from 18 on see nothing.
bool EveryOther(std::int64_t i, std::int64_t j) { return i < 18 && j < 50 && (i + j) % 2 == 0; }
bool FirstKeys(std::int64_t, std::int64_t j) { return j < 300; }

std::vector<Pattern> SmallPatterns() {
  return {
      {"causal", {"", 1, 2, 1, 40, 60, 8, 8, Causal()}, nullptr, false, 30, 33, 40},
      {"window", {"", 1, 2, 2, 70, 40, 8, 8, Near4()}, nullptr, false, 20, 18, -1, 44},
      {"window_more_keys", {"", 1, 1, 1, 20, 75, 8, 8, Near4()}, nullptr, false, 9, 9, 24},
      {"mask_bool", {"", 2, 2, 1, 24, 70, 16, 8}, EveryOther, false, 10, 4, 50, 18},
      {"mask_additive", {"", 2, 2, 1, 24, 70, 8, 16}, EveryOther, true, 10, 4, 50, 18},
  };
}

// Those that forbid pairs by what was added to the first contract.
std::vector<Pattern> ExtendedPatterns() {
  return {
      {"softcap", {"", 1, 2, 1, 40, 60, 8, 8, CappedCausal()}, nullptr, false, 30, 33, 40},
      {"lower_right", {"", 1, 2, 1, 40, 60, 8, 8, CausalLowerRight()}, nullptr, false, 30, 33},
      {"key_lengths",
       {"", 2, 2, 1, 24, 70, 8, 8},
       nullptr,
       false,
       10,
       4,
       50,
       -1,
       {{"kv_lengths", {50, 50}}}},
      {"documents",
       {"", 1, 2, 1, 24, 70, 8, 8},
       nullptr,
       false,
       10,
       4,
       50,
       -1,
       {{"cu_seqlens_q", {0, 10, 24, 24}}, {"cu_seqlens_kv", {0, 30, 50, 70}}}},
      {"documents_without_keys",
       {"", 1, 2, 1, 24, 70, 8, 8},
       nullptr,
       false,
       10,
       4,
       -1,
       20,
       {{"cu_seqlens_q", {0, 10, 20, 24}}, {"cu_seqlens_kv", {0, 30, 70, 70}}}},
  };
}

// More than 300 keys, in which several tiles occur.
std::vector<Pattern> LargePatterns() {
  return {
      {"long_causal", {"", 1, 1, 1, 310, 310, 8, 8, Causal()}, nullptr, false, 299, 305},
      {"long_window", {"", 1, 1, 1, 310, 310, 8, 8, Near4()}, nullptr, false, 150, 152},
      {"long_mask", {"", 1, 2, 1, 20, 330, 64, 32}, FirstKeys, false, 130, 7, 300},
  };
}

Problem MakeProblemOf(const Pattern& pattern, DType dtype) {
  const ProblemCase& c = pattern.shape;
  Problem problem = MakeProblem(c, dtype);
  for (const auto& [name, lengths] : pattern.lengths) {
    problem.option_tensors[name] = EncodeInt32(lengths);
  }
  if (pattern.mask == nullptr) return problem;
  Array mask = Zeros({c.seq_q, c.seq_kv});
  for (std::int64_t i = 0; i < c.seq_q; ++i) {
    for (std::int64_t j = 0; j < c.seq_kv; ++j) {
      const bool sees = pattern.mask(i, j);
      mask.values[i * c.seq_kv + j] = pattern.additive ? (sees ? 0.0 : -kInfinity) : sees;
    }
  }
  problem.mask = pattern.additive ? Encode(mask, dtype, Layout::kRowMajor) : EncodeBool(mask);
  return problem;
}

bool OfKeys(const std::string& name) { return name[0] == 'k' || name[0] == 'v'; }

// Sets rows first <= row < end of an input to `value`; of one channel, or of all.
void Fill(const std::string& name, std::int64_t first, std::int64_t end, bool one_channel,
          double value, Problem& problem) {
  Array array = problem.Values().at(name);
  const std::int64_t width = array.shape[3];
  for (std::size_t i = 0; i < array.values.size(); ++i) {
    const std::int64_t row = static_cast<std::int64_t>(i) / width % array.shape[2];
    const bool channel = !one_channel || static_cast<std::int64_t>(i) % width == width / 2;
    if (first <= row && row < end && channel) array.values[i] = value;
  }
  problem.Set(name, array);
}

class NonFiniteTest : public TargetTest {
 protected:
  // Calls check(outputs) for every operation, with and without saved statistics.
  template <typename Check>
  void ForEachRun(Problem problem, Check check) {
    const auto statistics = RunTensors(target(), Operation::kForward, problem);
    ASSERT_TRUE(statistics.ok()) << statistics.status();
    for (const bool saved : {false, true}) {
      if (saved) problem.inputs.insert(statistics->begin(), statistics->end());
      for (const Operation operation : kOperations) {
        if (saved && operation == Operation::kForward) continue;
        SCOPED_TRACE(testing::Message()
                     << OperationName(operation) << (saved ? " with saved statistics" : ""));
        check(RunArrays(target(), operation, problem));
      }
    }
  }

  // `value` in everything that takes no part, in all inputs at once.
  void ExpectNoInfluence(const Pattern& pattern, DType dtype, double value) {
    Problem problem = MakeProblemOf(pattern, dtype);
    const Arrays expected = DenseOracle(problem);
    for (const auto& [name, array] : problem.Values()) {
      const std::int64_t first = OfKeys(name) ? pattern.first_unseen : pattern.first_dead;
      if (first >= 0) Fill(name, first, array.shape[2], false, value, problem);
    }
    ForEachRun(problem, [&](const Arrays& actual) {
      for (const auto& [name, array] : actual) {
        EXPECT_TRUE(Near(array, expected.at(name), ToleranceOf(name, dtype), HalfSmallest(dtype)))
            << name;
      }
    });
  }

  // `value` in one channel of one key or row that some rows or keys see and others do not.
  void ExpectExactSpread(const Pattern& pattern, DType dtype, const std::string& input,
                         double value) {
    const std::int64_t row = OfKeys(input) ? pattern.seen_by_some : pattern.live_row;
    Problem problem = MakeProblemOf(pattern, dtype);
    Fill(input, row, row + 1, true, kNan, problem);
    const Arrays of_nan = DenseOracle(problem);
    Fill(input, row, row + 1, true, value, problem);
    const Arrays expected = std::isnan(value) ? of_nan : DenseOracle(problem);
    ForEachRun(problem, [&](const Arrays& actual) {
      for (const auto& [name, array] : actual) {
        EXPECT_TRUE(SpreadsAs(array, expected.at(name), of_nan.at(name), name, dtype)) << name;
      }
    });
  }

 private:
  Tolerance ToleranceOf(const std::string& name, DType dtype) const {
    const bool is_statistic = name == "lse" || name == "lse_dot";
    return WithSavedStatistics(target().arithmetic, is_statistic ? StatisticsDType(dtype) : dtype);
  }

  // Whether `actual` is what was expected where that is finite, and not finite where that is not.
  // Arithmetic that splits factors may turn an infinity into a NaN, which spreads as `of_nan`.
  testing::AssertionResult SpreadsAs(const Array& actual, const Array& expected,
                                     const Array& of_nan, const std::string& name, DType dtype) {
    Array finite = actual;
    Array finite_expected = expected;
    for (std::size_t i = 0; i < expected.values.size(); ++i) {
      const bool is_minus_infinity = name == "lse" && expected.values[i] == -kInfinity;
      if (std::isfinite(expected.values[i]) || is_minus_infinity) {
        if (target().is_reference() || !std::isnan(of_nan.values[i])) continue;
      } else if (std::isfinite(actual.values[i])) {
        return testing::AssertionFailure() << "element " << i << " is " << actual.values[i]
                                           << ", expected " << expected.values[i];
      }
      finite.values[i] = finite_expected.values[i] = 0.0;
    }
    return Near(finite, finite_expected, ToleranceOf(name, dtype), HalfSmallest(dtype));
  }
};

TEST_P(NonFiniteTest, WhatTakesNoPartContributesNothing) {
  for (const Pattern& pattern : SmallPatterns()) {
    for (const DType dtype : kDTypes) {
      for (const double value : {kNan, kInfinity, -kInfinity}) {
        SCOPED_TRACE(testing::Message()
                     << pattern.name << " " << DTypeName(dtype) << " with " << value);
        ExpectNoInfluence(pattern, dtype, value);
      }
    }
  }
  for (const Pattern& pattern : LargePatterns()) {
    SCOPED_TRACE(pattern.name);
    ExpectNoInfluence(pattern, DType::kFloat32, kNan);
  }
}

TEST_P(NonFiniteTest, WhatTakesPartSpreadsToWhatSeesIt) {
  for (const char* input : {"q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot"}) {
    for (const Pattern& pattern : SmallPatterns()) {
      for (const DType dtype : kDTypes) {
        for (const double value : {kNan, kInfinity, -kInfinity}) {
          SCOPED_TRACE(testing::Message() << value << " in " << input << " " << pattern.name << " "
                                          << DTypeName(dtype));
          ExpectExactSpread(pattern, dtype, input, value);
        }
      }
    }
    for (const Pattern& pattern : LargePatterns()) {
      SCOPED_TRACE(testing::Message() << "NaN in " << input << " " << pattern.name);
      ExpectExactSpread(pattern, DType::kFloat32, input, kNan);
    }
  }
}

TEST_P(NonFiniteTest, WhatOtherOptionsForbidContributesNothing) {
  for (const Pattern& pattern : ExtendedPatterns()) {
    const Problem problem = MakeProblemOf(pattern, DType::kFloat32);
    const absl::Status status = RunTensors(target(), Operation::kHvp, problem).status();
    if (absl::IsUnimplemented(status) && !target().is_reference()) {
      GTEST_SKIP() << pattern.name << ": " << status;
    }
    for (const DType dtype : kDTypes) {
      for (const double value : {kNan, kInfinity, -kInfinity}) {
        SCOPED_TRACE(testing::Message()
                     << pattern.name << " " << DTypeName(dtype) << " with " << value);
        ExpectNoInfluence(pattern, dtype, value);
        if (dtype != DType::kFloat32 && dtype != DType::kFloat16) continue;
        for (const char* input : {"q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot"}) {
          SCOPED_TRACE(input);
          ExpectExactSpread(pattern, dtype, input, value);
        }
      }
    }
  }
}

// Without a mask nothing is forbidden: a visible pair counts even where its P underflows to 0.
TEST_P(NonFiniteTest, VanishingProbabilitiesDoNotSwallowNan) {
  Pattern pattern = {"peaked", {"", 1, 1, 1, 20, 75, 8, 8}, nullptr, false, 40, 5};
  pattern.shape.options.scale = 1000.0;
  for (const char* input : {"q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot"}) {
    for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
      SCOPED_TRACE(testing::Message() << "NaN in " << input << " " << DTypeName(dtype));
      Problem problem = MakeProblemOf(pattern, dtype);
      const std::int64_t row = OfKeys(input) ? pattern.seen_by_some : pattern.live_row;
      Fill(input, row, row + 1, true, kNan, problem);
      const Arrays expected = DenseOracle(problem);
      ForEachRun(problem, [&](const Arrays& actual) {
        for (const auto& [name, array] : actual) {
          for (std::size_t i = 0; i < array.values.size(); ++i) {
            ASSERT_EQ(std::isfinite(array.values[i]), std::isfinite(expected.at(name).values[i]))
                << name << " " << i;
          }
        }
      });
    }
  }
}

TEST_P(NonFiniteTest, DropoutLeavesForbiddenPairsForbidden) {
  Pattern pattern = SmallPatterns().front();
  pattern.shape.options.dropout = {0.25, 7, 3};
  ExpectNoInfluence(pattern, DType::kFloat32, kNan);
}

INSTANTIATE_TEST_SUITE_P(Conformance, NonFiniteTest, testing::ValuesIn(Targets()), TargetTestName);

}  // namespace
}  // namespace theria::conformance
