#include "client/cli/parity/suite.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <set>
#include <string>

#include "absl/strings/str_format.h"
#include "client/cli/parity/drawn_problems.h"

namespace theria::cli {
namespace {

constexpr client::Dropout kDropout = {.probability = 0.25, .seed = 7, .offset = 3};
constexpr client::Dropout kLittleDropout = {.probability = 0.1, .seed = 7, .offset = 3};

// One problem for each option of the contract, around the default sizes.
std::vector<Problem> OptionProblems() {
  return {
      {.option_class = "plain", .identities = true},
      {.option_class = "causal", .options = {.is_causal = true}, .identities = true},
      {.option_class = "window",
       .seq_q = 40,
       .seq_kv = 40,
       .options = {.window = client::Window{5, 3}}},
      {.option_class = "causal window",
       .options = {.is_causal = true, .window = client::Window{.left = 7}}},
      {.option_class = "bool mask", .mask = MaskKind::kBool},
      {.option_class = "additive mask",
       .batch = 2,
       .mask = MaskKind::kAdditive,
       .identities = true},
      {.option_class = "masked rows", .mask = MaskKind::kRows},
      {.option_class = "dropout", .options = {.dropout = kDropout}, .identities = true},
      {.option_class = "grouped queries", .heads_q = 4, .heads_kv = 2, .identities = true},
      {.option_class = "head_dim_v", .head_dim = 16, .head_dim_v = 24},
      {.option_class = "seq_q < seq_kv", .seq_q = 17, .seq_kv = 50},
      {.option_class = "seq_q > seq_kv", .seq_q = 50, .seq_kv = 17, .options = {.is_causal = true}},
      {.option_class = "scale", .options = {.scale = 0.5}},
      {.option_class = "strides", .batch = 2, .layout = Layout::kTransposed},
      {.option_class = "broadcast", .batch = 3, .layout = Layout::kBroadcast},
      {.option_class = "saved o, lse", .options = {.is_causal = true}, .saved = true},
      {.option_class = "absent tangents", .only_v_tangent = true},
      {.option_class = "absent tangents", .only_q_tangent = true},
      {.option_class = "fast", .options = {.precision = client::Precision::kFast}},
      {.option_class = "all at once",
       .batch = 2,
       .heads_q = 4,
       .heads_kv = 2,
       .seq_q = 37,
       .seq_kv = 41,
       .head_dim = 16,
       .head_dim_v = 24,
       .options = {.scale = 0.3,
                   .is_causal = true,
                   .window = client::Window{.left = 20},
                   .causal_alignment = client::CausalAlignment::kLowerRight,
                   .softcap = 3.0,
                   .dropout = kLittleDropout},
       .mask = MaskKind::kAdditive,
       .bias = true,
       .alibi = true,
       .cotangents = Cotangents::kBoth,
       .layout = Layout::kTransposed,
       .saved = true,
       .identities = true},
  };
}

constexpr client::CausalAlignment kLowerRight = client::CausalAlignment::kLowerRight;

// The options that came later: alignment, soft cap, ALiBi, lengths, documents, bias and lse.
std::vector<Problem> ExtendedProblems() {
  return {
      {.option_class = "lower right",
       .seq_q = 20,
       .options = {.is_causal = true, .causal_alignment = kLowerRight},
       .identities = true},
      {.option_class = "lower right, seq_q > seq_kv",
       .seq_q = 40,
       .seq_kv = 17,
       .options = {.is_causal = true, .causal_alignment = kLowerRight}},
      {.option_class = "lower right window",
       .seq_q = 20,
       .options = {.window = client::Window{5, 3}, .causal_alignment = kLowerRight}},
      {.option_class = "soft cap", .options = {.softcap = 1.5}, .identities = true},
      {.option_class = "soft cap, additive mask",
       .options = {.softcap = 1.5},
       .mask = MaskKind::kAdditive},
      {.option_class = "alibi", .batch = 2, .heads_q = 4, .alibi = true, .identities = true},
      {.option_class = "alibi, lower right",
       .seq_q = 20,
       .options = {.is_causal = true, .causal_alignment = kLowerRight},
       .alibi = true},
      {.option_class = "key lengths", .batch = 3, .kv_lengths = true, .identities = true},
      {.option_class = "key lengths, causal",
       .batch = 3,
       .seq_q = 20,
       .options = {.is_causal = true, .causal_alignment = kLowerRight},
       .kv_lengths = true},
      {.option_class = "packed",
       .seq_q = 33,
       .seq_kv = 41,
       .documents_q = {5, 0, 17, 11},
       .documents_kv = {9, 4, 8, 20},
       .identities = true},
      {.option_class = "packed, lower right",
       .seq_q = 33,
       .seq_kv = 41,
       .options = {.is_causal = true,
                   .window = client::Window{.left = 9},
                   .causal_alignment = kLowerRight},
       .alibi = true,
       .documents_q = {5, 1, 17, 10},
       .documents_kv = {9, 12, 0, 20}},
      {.option_class = "bias",
       .batch = 2,
       .mask = MaskKind::kAdditive,
       .bias = true,
       .identities = true},
      {.option_class = "head bias", .batch = 2, .mask = MaskKind::kHeadBias, .bias = true},
      {.option_class = "key bias",
       .batch = 2,
       .options = {.dropout = kDropout},
       .mask = MaskKind::kKeyBias,
       .bias = true,
       .identities = true},
      {.option_class = "lse_bar", .cotangents = Cotangents::kBoth, .identities = true},
      {.option_class = "lse_bar alone", .cotangents = Cotangents::kStatistic},
      {.option_class = "deterministic",
       .heads_q = 4,
       .options = {.is_causal = true, .deterministic = true}},
      {.option_class = "no batch", .batch = 0},
      {.option_class = "no heads", .heads_q = 0, .heads_kv = 0},
      {.option_class = "no queries", .seq_q = 0},
      {.option_class = "no keys", .seq_kv = 0},
  };
}

// Sizes at which tiles begin and end, and those that models have.
std::vector<Problem> SizeProblems() {
  std::vector<Problem> problems;
  for (const std::int64_t seq : {2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 197}) {
    problems.push_back(
        {.option_class = "lengths", .seq_q = seq, .seq_kv = seq, .head_dim = 64, .head_dim_v = 64});
    problems.push_back({.option_class = "lengths, causal",
                        .seq_q = seq,
                        .seq_kv = seq,
                        .head_dim = 64,
                        .head_dim_v = 64,
                        .options = {.is_causal = true}});
  }
  for (const std::int64_t head_dim : {1, 8, 24, 32, 64, 80, 96, 128, 256, 512}) {
    problems.push_back({.option_class = "head dimensions",
                        .heads_q = 1,
                        .heads_kv = 1,
                        .head_dim = head_dim,
                        .head_dim_v = head_dim});
  }
  problems.push_back({.option_class = "one query",
                      .batch = 4,
                      .seq_q = 1,
                      .seq_kv = 100,
                      .head_dim = 64,
                      .head_dim_v = 64});
  problems.push_back({.option_class = "long",
                      .heads_q = 1,
                      .heads_kv = 1,
                      .seq_q = 512,
                      .seq_kv = 512,
                      .head_dim = 64,
                      .head_dim_v = 64,
                      .options = {.is_causal = true, .dropout = kLittleDropout}});
  return problems;
}

// The derivatives with the o and lse of the target's forward, instead of without.
Problem WithSaved(Problem problem) {
  problem.option_class += ", saved";
  problem.saved = true;
  return problem;
}

// Scores of 1, 9^2, 30^2 and 130^2: as they come, and with ties, where the probabilities are
// neither 0 nor 1 and explicit math loses nothing.
std::vector<Problem> LargeScoreProblems() {
  std::vector<Problem> problems;
  for (const int magnitude : {1, 9, 30, 130}) {
    if (magnitude > 1) {
      problems.push_back({.option_class = absl::StrFormat("scores %d^2", magnitude),
                          .magnitude = static_cast<double>(magnitude)});
    }
    problems.push_back({.option_class = absl::StrFormat("tied scores %d^2", magnitude),
                        .magnitude = static_cast<double>(magnitude),
                        .ties = true});
  }
  return problems;
}

std::vector<Problem> FiniteMaskProblems() {
  std::vector<Problem> problems;
  for (const MaskFill fill : {MaskFill::kMinusBillion, MaskFill::kLowest}) {
    const std::string name = fill == MaskFill::kLowest ? "lowest" : "-1e9";
    problems.push_back(
        {.option_class = "half of keys " + name, .mask = MaskKind::kFilledHalf, .fill = fill});
    problems.push_back(
        {.option_class = "rows " + name, .mask = MaskKind::kFilledRows, .fill = fill});
    problems.push_back({.option_class = "left padding " + name,
                        .batch = 2,
                        .mask = MaskKind::kLeftPadding,
                        .fill = fill});
  }
  return problems;
}

std::vector<Problem> UnseenPoisonProblems() {
  std::vector<Problem> problems = {
      {.option_class = "causal", .seq_q = 20, .options = {.is_causal = true}},
      {.option_class = "window",
       .seq_q = 20,
       .options = {.window = client::Window{.left = 4, .right = 4}}},
      {.option_class = "masked keys", .heads_q = 4, .mask = MaskKind::kKeys},
      {.option_class = "masked rows", .mask = MaskKind::kRows},
      {.option_class = "causal masked keys",
       .seq_q = 20,
       .options = {.is_causal = true, .dropout = kDropout},
       .mask = MaskKind::kKeys},
  };
  for (Problem& problem : problems) {
    problem.option_class = "unseen NaN, " + problem.option_class;
    problem.poison = Poison::kUnseen;
  }
  return problems;
}

std::vector<Problem> SeenPoisonProblems() {
  std::vector<Problem> problems;
  for (const char* input : {"q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot"}) {
    problems.push_back({.option_class = absl::StrFormat("NaN in %s", input),
                        .options = {.is_causal = true},
                        .poison = Poison::kSeen,
                        .poisoned = input});
  }
  problems.push_back({.option_class = "NaN in v, window",
                      .options = {.window = client::Window{.left = 4, .right = 4}},
                      .poison = Poison::kSeen,
                      .poisoned = "v"});
  return problems;
}

std::vector<Problem> HardProblems() {
  std::vector<Problem> problems;
  for (const std::vector<Problem>& some :
       {LargeScoreProblems(), FiniteMaskProblems(), UnseenPoisonProblems(), SeenPoisonProblems()}) {
    for (const Problem& problem : some) {
      problems.push_back(problem);
      problems.push_back(WithSaved(problem));
    }
  }
  return problems;
}

// The hard problems of the quick suite, by name.
bool IsQuick(const Problem& problem) {
  static const std::set<std::string> kQuick = {
      "scores 30^2",
      "scores 130^2, saved",
      "tied scores 9^2, saved",
      "tied scores 130^2",
      "tied scores 130^2, saved",
      "half of keys -1e9",
      "half of keys lowest, saved",
      "rows -1e9, saved",
      "rows lowest",
      "rows lowest, saved",
      "left padding -1e9, saved",
      "left padding lowest, saved",
      "unseen NaN, causal",
      "unseen NaN, causal, saved",
      "unseen NaN, window",
      "unseen NaN, masked keys",
      "unseen NaN, masked rows",
      "NaN in q",
      "NaN in k, saved",
      "NaN in v",
      "NaN in o_bar",
      "NaN in q_dot",
      "NaN in k_dot",
      "NaN in v_dot, saved",
      "NaN in o_bar_dot",
  };
  return kQuick.contains(problem.option_class);
}

constexpr int kDrawn = 300;

// The same at sizes that take several tiles.
std::vector<Problem> Larger(std::vector<Problem> problems) {
  const auto enlarge = [](auto& size) { size = size == 0 ? 0 : size * 4 + 1; };
  for (Problem& problem : problems) {
    if (problem.documents_q.empty()) {
      enlarge(problem.seq_q);
      enlarge(problem.seq_kv);
    } else {
      std::for_each(problem.documents_q.begin(), problem.documents_q.end(), enlarge);
      std::for_each(problem.documents_kv.begin(), problem.documents_kv.end(), enlarge);
      problem.seq_q = std::accumulate(problem.documents_q.begin(), problem.documents_q.end(), 0);
      problem.seq_kv = std::accumulate(problem.documents_kv.begin(), problem.documents_kv.end(), 0);
    }
    problem.head_dim = 64;
    problem.head_dim_v = problem.option_class == "head_dim_v" ? 96 : 64;
  }
  return problems;
}

}  // namespace

std::vector<Problem> Problems(Suite suite) {
  std::vector<Problem> problems = OptionProblems();
  const std::vector<Problem> extended = ExtendedProblems();
  problems.insert(problems.end(), extended.begin(), extended.end());
  const std::vector<Problem> hard = HardProblems();
  for (const Problem& problem : hard) {
    if (suite == Suite::kFull || IsQuick(problem)) problems.push_back(problem);
  }
  if (suite == Suite::kFull) {
    for (const std::vector<Problem>& more : {Larger(OptionProblems()), Larger(extended),
                                             Larger(hard), SizeProblems(), DrawnProblems(kDrawn)}) {
      problems.insert(problems.end(), more.begin(), more.end());
    }
  }
  return problems;
}

}  // namespace theria::cli
