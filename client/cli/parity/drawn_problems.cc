#include "client/cli/parity/drawn_problems.h"

#include <cstdint>
#include <random>
#include <string>

#include "absl/strings/str_format.h"

namespace theria::cli {
namespace {

class Drawer {
 public:
  Problem Next(int number) {
    problem_ = {.option_class = "drawn", .variant = absl::StrFormat("#%d", number)};
    DrawSizes();
    DrawScores();
    DrawMask();
    DrawLengths();
    if (Chosen("lse_bar", 0.3)) {
      problem_.cotangents = Coin(0.7) ? Cotangents::kBoth : Cotangents::kStatistic;
    }
    if (Chosen("dropout", 0.25)) {
      problem_.options.dropout = {.probability = 0.2, .seed = Below(1000), .offset = Below(1000)};
    }
    if (Chosen("saved", 0.4)) problem_.saved = true;
    if (Chosen("deterministic", 0.2)) problem_.options.deterministic = true;
    if (Chosen("transposed", 0.3)) problem_.layout = Layout::kTransposed;
    problem_.identities = Coin(0.2);
    return problem_;
  }

 private:
  void DrawSizes() {
    problem_.batch = 1 + static_cast<std::int64_t>(Below(3));
    problem_.heads_kv = 1 + static_cast<std::int64_t>(Below(2));
    problem_.heads_q = problem_.heads_kv * (1 + static_cast<std::int64_t>(Below(3)));
    problem_.seq_q = 1 + static_cast<std::int64_t>(Below(70));
    problem_.seq_kv = 1 + static_cast<std::int64_t>(Below(70));
    problem_.head_dim = 8 * (1 + static_cast<std::int64_t>(Below(4)));
    problem_.head_dim_v = 8 * (1 + static_cast<std::int64_t>(Below(4)));
  }

  void DrawScores() {
    client::AttentionOptions& options = problem_.options;
    if (Chosen("scale", 0.2)) options.scale = 0.4;
    if (Chosen("causal", 0.4)) options.is_causal = true;
    if (Chosen("window", 0.3)) {
      options.window.emplace();
      if (Coin(0.7)) options.window->left = Below(30);
      if (Coin(0.5)) options.window->right = Below(30);
    }
    if (Chosen("lower right", 0.4)) {
      options.causal_alignment = client::CausalAlignment::kLowerRight;
    }
    if (Chosen("soft cap", 0.4)) options.softcap = 1.0 + static_cast<double>(Below(4));
    if (Chosen("alibi", 0.3)) problem_.alibi = true;
  }

  void DrawMask() {
    if (Chosen("bool mask", 0.2)) {
      problem_.mask = Coin(0.5) ? MaskKind::kBool : MaskKind::kRows;
    } else if (Chosen("float mask", 0.5)) {
      constexpr MaskKind kKinds[] = {MaskKind::kAdditive, MaskKind::kHeadBias, MaskKind::kKeyBias};
      problem_.mask = kKinds[Below(3)];
      problem_.bias = Chosen("bias", 0.7);
    }
  }

  // Documents and key lengths exclude each other.
  void DrawLengths() {
    if (Chosen("packed", 0.25)) {
      problem_.batch = 1;
      const std::size_t count = 1 + Below(5);
      problem_.documents_q = Documents(count, problem_.seq_q);
      problem_.documents_kv = Documents(count, problem_.seq_kv);
    } else if (Chosen("key lengths", 0.25)) {
      problem_.kv_lengths = true;
    }
  }

  // Lengths from 0 on that add up to `total`.
  std::vector<std::int32_t> Documents(std::size_t count, std::int64_t total) {
    std::vector<std::int32_t> lengths(count);
    for (std::int64_t position = 0; position < total; ++position) ++lengths[Below(count)];
    return lengths;
  }

  bool Chosen(const char* name, double probability) {
    if (!Coin(probability)) return false;
    problem_.variant += absl::StrFormat(" %s", name);
    return true;
  }

  // From the engine's own bits: the distributions of the standard library differ between platforms.
  bool Coin(double probability) {
    return Below(1000) < static_cast<std::uint64_t>(probability * 1000);
  }
  std::uint64_t Below(std::uint64_t bound) { return engine_() % bound; }

  std::mt19937_64 engine_{20260930};
  Problem problem_;
};

}  // namespace

std::vector<Problem> DrawnProblems(int count) {
  std::vector<Problem> problems;
  Drawer drawer;
  for (int number = 1; number <= count; ++number) problems.push_back(drawer.Next(number));
  return problems;
}

}  // namespace theria::cli
