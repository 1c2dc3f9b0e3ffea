#include <algorithm>
#include <limits>

#include "tests/conformance/problem.h"

namespace theria::conformance {
namespace {

AttentionOptions Causal() {
  AttentionOptions options;
  options.is_causal = true;
  return options;
}

AttentionOptions WithWindow(std::optional<std::int64_t> left, std::optional<std::int64_t> right) {
  AttentionOptions options;
  options.window = Window{left, right};
  return options;
}

AttentionOptions WithDropout(double probability) {
  AttentionOptions options;
  options.dropout = {probability, 0x123456789ABCDEFu, 42};
  return options;
}

AttentionOptions WithScale(double scale) {
  AttentionOptions options;
  options.scale = scale;
  return options;
}

AttentionOptions Everything() {
  AttentionOptions options = WithDropout(0.25);
  options.is_causal = true;
  options.window = Window{40, std::nullopt};
  options.scale = 0.3;
  return options;
}

AttentionOptions WithCap(double cap) {
  AttentionOptions options;
  options.softcap = cap;
  return options;
}

AttentionOptions LowerRight(AttentionOptions options) {
  options.causal_alignment = CausalAlignment::kLowerRight;
  return options;
}

AttentionOptions EverythingLowerRight() {
  AttentionOptions options = LowerRight(Everything());
  options.softcap = 3.0;
  return options;
}

std::vector<ProblemCase> MakeCases() {
  using enum MaskKind;
  return {
      // name, batch, heads_q, heads_kv, seq_q, seq_kv, head_dim, head_dim_v
      {"one_element", 1, 1, 1, 1, 1, 1, 1},
      {"one_query", 1, 2, 2, 1, 90, 16, 16},
      {"one_key", 1, 2, 2, 19, 1, 16, 16},
      {"small", 1, 1, 1, 16, 16, 16, 16},
      {"square", 2, 4, 4, 33, 33, 16, 16},
      {"more_keys", 1, 2, 2, 17, 70, 24, 8},
      {"more_queries", 1, 2, 2, 70, 17, 8, 24},
      {"odd_dims", 2, 1, 1, 13, 15, 5, 3},
      {"widest_keys", 1, 1, 1, 9, 11, 512, 1},
      {"widest_values", 1, 1, 1, 9, 11, 1, 512},
      {"many_tiles", 1, 1, 1, 150, 200, 32, 40},
      {"vision", 1, 2, 2, 197, 197, 64, 64},
      {"long_keys", 1, 1, 1, 70, 1100, 8, 8},
      {"many_threads", 2, 2, 2, 300, 280, 16, 16},
      {"grouped", 2, 6, 2, 40, 50, 16, 16},
      {"multi_query", 1, 4, 1, 70, 130, 16, 8},
      {"causal", 1, 2, 2, 130, 130, 16, 16, Causal()},
      {"causal_more_keys", 1, 1, 1, 40, 90, 16, 16, Causal()},
      {"causal_more_queries", 1, 1, 1, 90, 40, 16, 16, Causal()},
      {"causal_grouped", 1, 4, 2, 100, 100, 8, 8, Causal()},
      {"window", 1, 2, 2, 150, 150, 16, 16, WithWindow(20, 7)},
      {"window_left", 1, 1, 1, 100, 100, 16, 16, WithWindow(10, std::nullopt)},
      {"window_right", 1, 1, 1, 100, 100, 16, 16, WithWindow(std::nullopt, 3)},
      {"window_diagonal", 1, 1, 1, 70, 70, 8, 8, WithWindow(0, 0)},
      {"window_past_the_keys", 1, 1, 1, 120, 30, 8, 8, WithWindow(4, 4)},
      {"window_huge", 1, 1, 1, 20, 20, 8, 8,
       WithWindow(std::numeric_limits<std::int64_t>::max(),
                  std::numeric_limits<std::int64_t>::max())},
      {"mask_bool", 2, 2, 1, 40, 70, 8, 8, {}, kBool},
      {"mask_key_padding", 2, 2, 2, 20, 75, 8, 8, {}, kKeyPadding},
      {"mask_query_column", 1, 2, 2, 40, 20, 8, 8, {}, kQueryColumn},
      {"mask_key_row", 1, 2, 2, 30, 66, 8, 8, {}, kKeyRow},
      {"mask_additive", 2, 2, 2, 40, 66, 8, 8, {}, kAdditive},
      {"mask_additive_float16", 2, 4, 2, 20, 66, 8, 8, {}, kAdditiveFloat16},
      {"dropout", 1, 2, 2, 40, 70, 16, 16, WithDropout(0.1)},
      {"dropout_half_grouped", 2, 4, 2, 70, 130, 8, 8, WithDropout(0.5)},
      {"dropout_nearly_all", 1, 1, 1, 20, 30, 8, 8, WithDropout(0.95)},
      {"everything", 2, 4, 2, 150, 140, 24, 16, Everything(), kBool, Layout::kHeadsInner},
      {"scale", 1, 1, 1, 20, 30, 8, 8, WithScale(0.3)},
      {"scale_zero", 1, 1, 1, 20, 30, 8, 8, WithScale(0.0)},
      {"scale_negative", 1, 1, 1, 20, 30, 8, 8, WithScale(-0.5)},
      {"scale_peaked", 1, 1, 1, 20, 30, 8, 8, WithScale(20.0)},
      {"heads_inner", 2, 4, 2, 40, 50, 16, 16, {}, kNone, Layout::kHeadsInner},
      {"transposed", 2, 2, 2, 40, 50, 16, 8, {}, kNone, Layout::kTransposed},
      {"gapped", 2, 2, 2, 40, 50, 16, 8, {}, kNone, Layout::kGapped},
      // What was added to the first contract.
      {.name = "softcap",
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 70,
       .seq_kv = 90,
       .head_dim = 16,
       .head_dim_v = 16,
       .options = WithCap(2.0)},
      {.name = "softcap_strong",
       .seq_q = 20,
       .seq_kv = 70,
       .head_dim = 8,
       .head_dim_v = 8,
       .options = WithCap(0.25),
       .extended = true},
      {.name = "softcap_weak",
       .seq_q = 20,
       .seq_kv = 30,
       .head_dim = 8,
       .head_dim_v = 8,
       .options = WithCap(1e6),
       .extended = true},
      {.name = "alibi",
       .heads_q = 4,
       .heads_kv = 2,
       .seq_q = 70,
       .seq_kv = 90,
       .head_dim = 8,
       .head_dim_v = 8,
       .alibi_rank = 1},
      {.name = "alibi_batch_lower_right",
       .batch = 2,
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 40,
       .seq_kv = 90,
       .head_dim = 8,
       .head_dim_v = 8,
       .options = LowerRight(Causal()),
       .alibi_rank = 2},
      {.name = "lower_right_more_keys",
       .heads_q = 2,
       .heads_kv = 1,
       .seq_q = 40,
       .seq_kv = 130,
       .head_dim = 16,
       .head_dim_v = 16,
       .options = LowerRight(Causal())},
      {.name = "lower_right_more_queries",
       .seq_q = 130,
       .seq_kv = 40,
       .head_dim = 8,
       .head_dim_v = 8,
       .options = LowerRight(Causal())},
      {.name = "lower_right_window",
       .seq_q = 60,
       .seq_kv = 150,
       .head_dim = 8,
       .head_dim_v = 8,
       .options = LowerRight(WithWindow(9, 3))},
      {.name = "key_lengths",
       .batch = 4,
       .heads_q = 2,
       .heads_kv = 1,
       .seq_q = 30,
       .seq_kv = 150,
       .head_dim = 8,
       .head_dim_v = 8,
       .key_lengths = true},
      {.name = "key_lengths_causal",
       .batch = 3,
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 70,
       .seq_kv = 90,
       .head_dim = 8,
       .head_dim_v = 8,
       .options = LowerRight(Causal()),
       .key_lengths = true,
       .extended = true},
      {.name = "documents",
       .heads_q = 2,
       .heads_kv = 1,
       .seq_q = 150,
       .seq_kv = 170,
       .head_dim = 8,
       .head_dim_v = 8,
       .documents = 6},
      {.name = "documents_causal",
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 200,
       .seq_kv = 200,
       .head_dim = 8,
       .head_dim_v = 8,
       .options = Causal(),
       .documents = 4,
       .extended = true},
      {.name = "documents_lower_right",
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 90,
       .seq_kv = 200,
       .head_dim = 8,
       .head_dim_v = 8,
       .options = LowerRight(Causal()),
       .alibi_rank = 1,
       .documents = 5,
       .extended = true},
      {.name = "documents_window",
       .seq_q = 200,
       .seq_kv = 150,
       .head_dim = 8,
       .head_dim_v = 8,
       .options = LowerRight(WithWindow(5, 2)),
       .documents = 3},
      {.name = "lse_bar",
       .batch = 2,
       .heads_q = 4,
       .heads_kv = 2,
       .seq_q = 40,
       .seq_kv = 70,
       .head_dim = 16,
       .head_dim_v = 8,
       .extended = true},
      {.name = "lse_bar_dead_rows",
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 40,
       .seq_kv = 20,
       .head_dim = 8,
       .head_dim_v = 8,
       .mask_kind = kQueryColumn,
       .extended = true},
      {.name = "bias_full",
       .batch = 2,
       .heads_q = 2,
       .heads_kv = 1,
       .seq_q = 70,
       .seq_kv = 90,
       .head_dim = 8,
       .head_dim_v = 8,
       .mask_kind = kBias,
       .extended = true},
      {.name = "bias_of_heads",
       .batch = 3,
       .heads_q = 4,
       .heads_kv = 2,
       .seq_q = 70,
       .seq_kv = 66,
       .head_dim = 8,
       .head_dim_v = 8,
       .mask_kind = kBias,
       .bias_dimensions = 0b0111,
       .extended = true},
      {.name = "bias_of_pairs",
       .batch = 2,
       .heads_q = 4,
       .heads_kv = 4,
       .seq_q = 40,
       .seq_kv = 130,
       .head_dim = 8,
       .head_dim_v = 8,
       .mask_kind = kBias,
       .bias_dimensions = 0b1011,
       .extended = true},
      {.name = "bias_of_keys",
       .batch = 2,
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 130,
       .seq_kv = 70,
       .head_dim = 8,
       .head_dim_v = 8,
       .mask_kind = kBias,
       .bias_dimensions = 0b1001,
       .extended = true},
      {.name = "bias_of_queries",
       .batch = 2,
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 130,
       .seq_kv = 150,
       .head_dim = 8,
       .head_dim_v = 8,
       .mask_kind = kBias,
       .bias_dimensions = 0b0110,
       .extended = true},
      {.name = "bias_number",
       .batch = 2,
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 70,
       .seq_kv = 70,
       .head_dim = 8,
       .head_dim_v = 8,
       .mask_kind = kBias,
       .bias_dimensions = 0b0000,
       .extended = true},
      {.name = "bias_additive",
       .batch = 2,
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 40,
       .seq_kv = 66,
       .head_dim = 8,
       .head_dim_v = 8,
       .mask_kind = kAdditive,
       .extended = true},
      {.name = "bias_key_row",
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 30,
       .seq_kv = 66,
       .head_dim = 8,
       .head_dim_v = 8,
       .mask_kind = kKeyRow,
       .extended = true},
      {.name = "bias_softcap",
       .batch = 2,
       .heads_q = 2,
       .heads_kv = 2,
       .seq_q = 40,
       .seq_kv = 70,
       .head_dim = 8,
       .head_dim_v = 8,
       .options = WithCap(1.5),
       .mask_kind = kBias,
       .bias_dimensions = 0b0111,
       .extended = true},
      {.name = "everything_extended",
       .batch = 2,
       .heads_q = 4,
       .heads_kv = 2,
       .seq_q = 150,
       .seq_kv = 170,
       .head_dim = 24,
       .head_dim_v = 16,
       .options = EverythingLowerRight(),
       .mask_kind = kBias,
       .layout = Layout::kHeadsInner,
       .bias_dimensions = 0b0111,
       .alibi_rank = 2,
       .key_lengths = true,
       .extended = true},
  };
}

}  // namespace

const std::vector<ProblemCase>& ProblemCases() {
  static const std::vector<ProblemCase>& cases = *new std::vector<ProblemCase>(MakeCases());
  return cases;
}

const ProblemCase& CaseNamed(const std::string& name) {
  const std::vector<ProblemCase>& cases = ProblemCases();
  return *std::find_if(cases.begin(), cases.end(),
                       [&](const ProblemCase& c) { return c.name == name; });
}

}  // namespace theria::conformance
