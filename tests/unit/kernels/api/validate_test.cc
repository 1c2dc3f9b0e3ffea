// Every mistake that Validate finds, with the field and the message that it gives.

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "kernels/api/attention.h"

namespace theria {
namespace {

TensorView View(DType dtype, std::initializer_list<std::int64_t> shape) {
  return RowMajorView<const void>(nullptr, dtype, shape);
}

// batch 2, heads_q 6, heads_kv 3, seq_q 5, seq_kv 7, head_dim 64, head_dim_v 32; all inputs of the
// operation.
AttentionInputs ValidInputs(Operation operation, DType dtype = DType::kFloat32) {
  AttentionInputs inputs;
  inputs.q = View(dtype, {2, 6, 5, 64});
  inputs.k = View(dtype, {2, 3, 7, 64});
  inputs.v = View(dtype, {2, 3, 7, 32});
  if (operation == Operation::kForward) return inputs;
  inputs.o = View(dtype, {2, 6, 5, 32});
  inputs.lse = View(StatisticsDType(dtype), {2, 6, 5});
  if (operation != Operation::kJvp) inputs.o_bar = inputs.o;
  if (operation != Operation::kVjp) {
    inputs.q_dot = inputs.q;
    inputs.k_dot = inputs.k;
    inputs.v_dot = inputs.v;
  }
  if (operation == Operation::kHvp) inputs.o_bar_dot = inputs.o;
  inputs.options.mask = View(DType::kFloat64, {6, 1, 7});
  if (operation != Operation::kJvp) inputs.lse_bar = inputs.lse;
  if (operation == Operation::kHvp) inputs.lse_bar_dot = inputs.lse;
  if (operation != Operation::kVjp) inputs.bias_dot = inputs.options.mask;
  return inputs;
}

TEST(ValidateTest, SizesOfAValidProblem) {
  for (const Operation operation :
       {Operation::kForward, Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
    for (const DType dtype :
         {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      const auto problem = Validate(operation, ValidInputs(operation, dtype));
      ASSERT_TRUE(problem.ok()) << problem.status();
      EXPECT_EQ(problem->operation, operation);
      EXPECT_EQ(problem->dtype, dtype);
      EXPECT_EQ(problem->batch, 2);
      EXPECT_EQ(problem->heads_q, 6);
      EXPECT_EQ(problem->heads_kv, 3);
      EXPECT_EQ(problem->group(), 2);
      EXPECT_EQ(problem->seq_q, 5);
      EXPECT_EQ(problem->seq_kv, 7);
      EXPECT_EQ(problem->head_dim, 64);
      EXPECT_EQ(problem->head_dim_v, 32);
      EXPECT_EQ(problem->scale, 0.125);
    }
  }
}

TEST(ValidateTest, ValidOptions) {
  AttentionInputs inputs = ValidInputs(Operation::kForward);
  inputs.options.scale = -0.5;
  inputs.options.window = Window{0, std::nullopt};
  inputs.options.dropout.probability = 0.999;
  inputs.options.precision = Precision::kFast;
  inputs.options.implementation = Implementation::kFused;
  for (const TensorView& mask :
       {View(DType::kBool, {}), View(DType::kBool, {7}), View(DType::kFloat16, {5, 1}),
        View(DType::kFloat64, {6, 5, 7}), View(DType::kBFloat16, {2, 1, 1, 7})}) {
    inputs.options.mask = mask;
    const auto problem = Validate(Operation::kForward, inputs);
    ASSERT_TRUE(problem.ok()) << problem.status();
    EXPECT_EQ(problem->scale, -0.5);
  }
}

TEST(ValidateTest, BroadcastInputs) {
  AttentionInputs inputs = ValidInputs(Operation::kForward);
  inputs.k->strides = {0, 0, 0, 0};
  EXPECT_TRUE(Validate(Operation::kForward, inputs).ok());
}

void SetDocuments(std::int64_t offsets, AttentionInputs& inputs) {
  inputs.options.cu_seqlens_q = View(DType::kInt32, {offsets});
  inputs.options.cu_seqlens_kv = View(DType::kInt32, {offsets});
}

TEST(ValidateTest, ValidScoreOptions) {
  AttentionInputs inputs = ValidInputs(Operation::kForward);
  inputs.options.causal_alignment = CausalAlignment::kLowerRight;
  inputs.options.softcap = 50.0;
  inputs.options.deterministic = true;
  inputs.options.kv_lengths = View(DType::kInt32, {2});
  for (const TensorView& slopes : {View(DType::kFloat32, {6}), View(DType::kBFloat16, {2, 6})}) {
    inputs.options.alibi_slopes = slopes;
    EXPECT_TRUE(Validate(Operation::kForward, inputs).ok());
  }
}

TEST(ValidateTest, PackedDocuments) {
  AttentionInputs inputs;
  inputs.q = View(DType::kFloat16, {1, 4, 12, 8});
  inputs.k = View(DType::kFloat16, {1, 2, 20, 8});
  inputs.v = inputs.k;
  SetDocuments(5, inputs);
  const auto problem = Validate(Operation::kForward, inputs);
  EXPECT_TRUE(problem.ok()) << problem.status();
}

TEST(ValidateTest, LseBarStandsForOBar) {
  for (const Operation operation : {Operation::kVjp, Operation::kHvp}) {
    AttentionInputs inputs = ValidInputs(operation);
    inputs.o_bar.reset();
    const auto problem = Validate(operation, inputs);
    EXPECT_TRUE(problem.ok()) << problem.status();
  }
}

TEST(ValidateTest, BiasOfAFloatingPointMask) {
  AttentionInputs inputs = ValidInputs(Operation::kVjp);
  auto problem = Validate(Operation::kVjp, inputs);
  ASSERT_TRUE(problem.ok()) << problem.status();
  ASSERT_TRUE(problem->bias.has_value());
  const MutableTensorView layout = OutputLayout(*problem, "bias_bar");
  EXPECT_EQ(layout.dtype, DType::kFloat64);
  EXPECT_EQ(layout.rank, 3);
  EXPECT_EQ(layout.shape, (std::array<std::int64_t, 4>{6, 1, 7, 0}));
  EXPECT_EQ(layout.strides, (std::array<std::int64_t, 4>{7, 7, 1, 0}));
  EXPECT_EQ(layout.data, nullptr);
  EXPECT_TRUE(HasOutput(*problem, "bias_bar"));
  EXPECT_FALSE(HasOutput(*problem, "bias_bar_dot"));
  EXPECT_TRUE(CheckHasOutput(*problem, "bias_bar", "outputs.bias_bar").ok());

  inputs.options.mask = View(DType::kBool, {7});
  problem = Validate(Operation::kVjp, inputs);
  ASSERT_TRUE(problem.ok()) << problem.status();
  EXPECT_FALSE(HasOutput(*problem, "bias_bar"));
  EXPECT_TRUE(HasOutput(*problem, "q_bar"));
  const absl::Status status = CheckHasOutput(*problem, "bias_bar", "outputs.bias_bar");
  EXPECT_EQ(std::string(status.message()),
            "outputs.bias_bar is given, must be absent: only a floating-point options.mask has a "
            "derivative");
  EXPECT_EQ(FieldOf(status), "outputs.bias_bar");
}

TEST(ValidateTest, EmptyExtents) {
  struct Sizes {
    std::int64_t batch, heads_q, heads_kv, seq_q, seq_kv, head_dim, head_dim_v;
    bool has_scores;
  };
  for (const Sizes& s : {Sizes{0, 2, 1, 3, 4, 5, 6, false}, Sizes{1, 0, 0, 3, 4, 5, 6, false},
                         Sizes{1, 0, 2, 3, 4, 5, 6, false}, Sizes{1, 2, 1, 0, 4, 5, 6, false},
                         Sizes{1, 2, 1, 3, 0, 5, 6, false}, Sizes{1, 2, 1, 3, 4, 0, 6, true},
                         Sizes{1, 2, 1, 3, 4, 5, 0, true}, Sizes{0, 0, 0, 0, 0, 0, 0, false}}) {
    AttentionInputs inputs;
    inputs.q = View(DType::kFloat32, {s.batch, s.heads_q, s.seq_q, s.head_dim});
    inputs.k = View(DType::kFloat32, {s.batch, s.heads_kv, s.seq_kv, s.head_dim});
    inputs.v = View(DType::kFloat32, {s.batch, s.heads_kv, s.seq_kv, s.head_dim_v});
    inputs.options.mask = View(DType::kFloat32, {s.seq_q, s.seq_kv});
    const auto problem = Validate(Operation::kForward, inputs);
    ASSERT_TRUE(problem.ok()) << problem.status();
    EXPECT_EQ(problem->has_scores(), s.has_scores);
    EXPECT_TRUE(std::isfinite(problem->scale));
    EXPECT_GE(problem->group(), 0);
    const MutableTensorView o = OutputLayout(*problem, "o");
    EXPECT_EQ(o.SizeBytes() == 0, o.SpanElements() == 0);
    for (const std::int64_t stride : o.strides) EXPECT_GE(stride, 1);
  }
}

struct Mistake {
  const char* name;
  Operation operation;
  std::function<void(AttentionInputs&)> make;
  std::string field;
  std::string message;  // after the field
};

void PrintTo(const Mistake& mistake, std::ostream* out) { *out << mistake.name; }

class ValidateMistakeTest : public testing::TestWithParam<Mistake> {};

TEST_P(ValidateMistakeTest, IsFound) {
  const Mistake& mistake = GetParam();
  AttentionInputs inputs = ValidInputs(mistake.operation);
  ASSERT_TRUE(Validate(mistake.operation, inputs).ok());
  mistake.make(inputs);
  const absl::Status status = Validate(mistake.operation, inputs).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), mistake.field + " " + mistake.message);
  EXPECT_EQ(FieldOf(status), mistake.field);
}

constexpr std::int64_t kHuge = std::int64_t{1} << 40;

const Mistake kMistakes[] = {
    {"q_missing", Operation::kForward, [](auto& i) { i.q.reset(); }, "q",
     "is missing, must be given for forward"},
    {"v_missing", Operation::kHvp, [](auto& i) { i.v.reset(); }, "v",
     "is missing, must be given for hvp"},
    {"o_bar_missing", Operation::kVjp,
     [](auto& i) {
       i.o_bar.reset();
       i.lse_bar.reset();
     },
     "o_bar", "is missing, must be given for vjp unless lse_bar is"},
    {"lse_bar_not_read", Operation::kJvp, [](auto& i) { i.lse_bar = i.lse; }, "lse_bar",
     "is given, must be absent: it is no input of jvp"},
    {"lse_bar_dot_not_read", Operation::kVjp, [](auto& i) { i.lse_bar_dot = i.lse; }, "lse_bar_dot",
     "is given, must be absent: it is no input of vjp"},
    {"bias_dot_not_read", Operation::kVjp, [](auto& i) { i.bias_dot = i.options.mask; }, "bias_dot",
     "is given, must be absent: it is no input of vjp"},
    {"bias_dot_without_mask", Operation::kJvp, [](auto& i) { i.options.mask.reset(); }, "bias_dot",
     "is given, must be absent: only a floating-point options.mask has a derivative"},
    {"bias_dot_of_bool", Operation::kHvp,
     [](auto& i) {
       i.options.mask = View(DType::kBool, {6, 1, 7});
     },
     "bias_dot", "is given, must be absent: only a floating-point options.mask has a derivative"},
    {"bias_dot_dtype", Operation::kJvp, [](auto& i) { i.bias_dot->dtype = DType::kFloat32; },
     "bias_dot.dtype", "is float32, must be float64, the dtype of options.mask"},
    {"bias_dot_rank", Operation::kJvp,
     [](auto& i) {
       i.bias_dot = View(DType::kFloat64, {1, 6, 1, 7});
     },
     "bias_dot.shape", "has 4 dimensions, must have 3: the shape of options.mask"},
    {"bias_dot_shape", Operation::kHvp, [](auto& i) { i.bias_dot->shape[1] = 5; },
     "bias_dot.shape[1]", "is 5, must equal options.mask.shape[1] = 1"},
    {"lse_bar_dtype", Operation::kHvp, [](auto& i) { i.lse_bar->dtype = DType::kFloat64; },
     "lse_bar.dtype", "is float64, must be float32, the dtype of statistics for this q"},
    {"lse_bar_dot_shape", Operation::kHvp, [](auto& i) { i.lse_bar_dot->shape[2] = 4; },
     "lse_bar_dot.shape[2]", "is 4, must equal q.shape[2] = 5"},
    {"o_bar_not_read", Operation::kForward, [](auto& i) { i.o_bar = i.q; }, "o_bar",
     "is given, must be absent: it is no input of forward"},
    {"q_dot_not_read", Operation::kVjp, [](auto& i) { i.q_dot = i.q; }, "q_dot",
     "is given, must be absent: it is no input of vjp"},
    {"o_bar_dot_not_read", Operation::kJvp, [](auto& i) { i.o_bar_dot = i.o; }, "o_bar_dot",
     "is given, must be absent: it is no input of jvp"},
    {"o_without_lse", Operation::kVjp, [](auto& i) { i.lse.reset(); }, "lse",
     "is missing, must be given together with o"},
    {"lse_without_o", Operation::kHvp, [](auto& i) { i.o.reset(); }, "o",
     "is missing, must be given together with lse"},
    {"q_bool", Operation::kForward, [](auto& i) { i.q->dtype = DType::kBool; }, "q.dtype",
     "is bool, must be float64, float32, float16 or bfloat16"},
    {"q_unknown_dtype", Operation::kForward, [](auto& i) { i.q->dtype = DType{77}; }, "q.dtype",
     "is unknown, must be float64, float32, float16 or bfloat16"},
    {"k_dtype", Operation::kForward, [](auto& i) { i.k->dtype = DType::kFloat64; }, "k.dtype",
     "is float64, must be float32, the dtype of q"},
    {"v_dot_dtype", Operation::kJvp, [](auto& i) { i.v_dot->dtype = DType::kFloat16; },
     "v_dot.dtype", "is float16, must be float32, the dtype of q"},
    {"lse_dtype", Operation::kVjp, [](auto& i) { i.lse->dtype = DType::kFloat64; }, "lse.dtype",
     "is float64, must be float32, the dtype of statistics for this q"},
    {"q_rank", Operation::kForward, [](auto& i) { i.q->rank = 3; }, "q.shape",
     "has 3 dimensions, must have 4: [batch, heads_q, seq_q, head_dim]"},
    {"v_rank", Operation::kForward, [](auto& i) { i.v->rank = 0; }, "v.shape",
     "has 0 dimensions, must have 4: [batch, heads_kv, seq_kv, head_dim_v]"},
    {"lse_rank", Operation::kVjp, [](auto& i) { i.lse->rank = 4; }, "lse.shape",
     "has 4 dimensions, must have 3: [batch, heads_q, seq_q]"},
    {"o_bar_rank", Operation::kVjp, [](auto& i) { i.o_bar->rank = 2; }, "o_bar.shape",
     "has 2 dimensions, must have 4: [batch, heads, seq, head_dim]"},
    {"q_int32", Operation::kForward, [](auto& i) { i.q->dtype = DType::kInt32; }, "q.dtype",
     "is int32, must be float64, float32, float16 or bfloat16"},
    {"no_key_heads", Operation::kForward,
     [](auto& i) {
       i.k->shape[1] = 0;
       i.v->shape[1] = 0;
     },
     "k.shape[1]", "is 0, must divide q.shape[1] = 6"},
    {"k_negative", Operation::kForward, [](auto& i) { i.k->shape[1] = -3; }, "k.shape[1]",
     "is -3, must not be negative"},
    {"v_negative_stride", Operation::kForward, [](auto& i) { i.v->strides[2] = -32; },
     "v.strides[2]", "is -32, must not be negative"},
    {"q_overflows", Operation::kForward,
     [](auto& i) {
       i.q->shape = {kHuge, kHuge, 1, 64};
       i.q->strides = {0, 0, 0, 0};
     },
     "q.shape",
     "overflows at shape[1] = 1099511627776: the size must be at most 9223372036854775807 bytes"},
    {"k_span_overflows", Operation::kForward,
     [](auto& i) { i.k->strides[2] = std::numeric_limits<std::int64_t>::max() / 2; }, "k.strides",
     "overflows at strides[2] = 4611686018427387903: the span must be at most "
     "9223372036854775807 bytes"},
    {"scores_overflow", Operation::kForward,
     [](auto& i) {
       i.q = View(DType::kFloat32, {1, 1, kHuge, 1});
       i.k = View(DType::kFloat32, {1, 1, kHuge, 1});
       i.v = View(DType::kFloat32, {1, 1, kHuge, 1});
     },
     "k.shape[2]",
     "is 1099511627776, batch * heads_q * seq_q * seq_kv must be at most 9223372036854775807"},
    {"o_overflows", Operation::kForward,
     [](auto& i) {
       i.q = View(DType::kFloat32, {1 << 20, 1, kHuge / 4, 1});
       i.k = View(DType::kFloat32, {1 << 20, 1, 1, 1});
       i.v = View(DType::kFloat32, {1 << 20, 1, 1, 512});
     },
     "v.shape[3]", "is 512, the size of o must be at most 9223372036854775807 bytes"},
    {"head_dim_too_large", Operation::kForward, [](auto& i) { i.q->shape[3] = 513; }, "q.shape[3]",
     "is 513, must be at most 512"},
    {"head_dim_v_too_large", Operation::kForward, [](auto& i) { i.v->shape[3] = 1024; },
     "v.shape[3]", "is 1024, must be at most 512"},
    {"k_batch", Operation::kForward, [](auto& i) { i.k->shape[0] = 3; }, "k.shape[0]",
     "is 3, must equal q.shape[0] = 2"},
    {"heads", Operation::kForward, [](auto& i) { i.k->shape[1] = 4; }, "k.shape[1]",
     "is 4, must divide q.shape[1] = 6"},
    {"more_key_heads", Operation::kForward, [](auto& i) { i.k->shape[1] = 12; }, "k.shape[1]",
     "is 12, must divide q.shape[1] = 6"},
    {"k_head_dim", Operation::kForward, [](auto& i) { i.k->shape[3] = 48; }, "k.shape[3]",
     "is 48, must equal q.shape[3] = 64"},
    {"v_heads", Operation::kForward, [](auto& i) { i.v->shape[1] = 1; }, "v.shape[1]",
     "is 1, must equal k.shape[1] = 3"},
    {"v_seq", Operation::kForward, [](auto& i) { i.v->shape[2] = 8; }, "v.shape[2]",
     "is 8, must equal k.shape[2] = 7"},
    {"o_shape", Operation::kHvp, [](auto& i) { i.o->shape[3] = 64; }, "o.shape[3]",
     "is 64, must equal v.shape[3] = 32"},
    {"o_bar_shape", Operation::kVjp, [](auto& i) { i.o_bar->shape[2] = 6; }, "o_bar.shape[2]",
     "is 6, must equal q.shape[2] = 5"},
    {"k_dot_shape", Operation::kJvp, [](auto& i) { i.k_dot->shape[1] = 6; }, "k_dot.shape[1]",
     "is 6, must equal k.shape[1] = 3"},
    {"o_bar_dot_shape", Operation::kHvp, [](auto& i) { i.o_bar_dot->shape[0] = 1; },
     "o_bar_dot.shape[0]", "is 1, must equal q.shape[0] = 2"},
    {"lse_shape", Operation::kJvp, [](auto& i) { i.lse->shape[1] = 3; }, "lse.shape[1]",
     "is 3, must equal q.shape[1] = 6"},
    {"scale_nan", Operation::kForward, [](auto& i) { i.options.scale = std::nan(""); },
     "options.scale", "is nan, must be finite"},
    {"scale_infinite", Operation::kForward,
     [](auto& i) { i.options.scale = -std::numeric_limits<double>::infinity(); }, "options.scale",
     "is -inf, must be finite"},
    {"window_left", Operation::kForward,
     [](auto& i) {
       i.options.window = Window{-1, 2};
     },
     "options.window.left", "is -1, must not be negative"},
    {"window_right", Operation::kForward,
     [](auto& i) {
       i.options.window = Window{1, -2};
     },
     "options.window.right", "is -2, must not be negative"},
    {"mask_dtype", Operation::kForward, [](auto& i) { i.options.mask = View(DType{9}, {7}); },
     "options.mask.dtype", "is unknown, must be bool, float64, float32, float16 or bfloat16"},
    {"mask_rank", Operation::kForward,
     [](auto& i) {
       i.options.mask = View(DType::kBool, {7});
       i.options.mask->rank = 5;
     },
     "options.mask.shape", "has 5 dimensions, must have at most 4"},
    {"mask_keys", Operation::kForward,
     [](auto& i) {
       i.options.mask = View(DType::kBool, {1, 6, 5, 9});
     },
     "options.mask.shape[3]", "is 9, must be 1 or k.shape[2] = 7"},
    {"mask_queries", Operation::kForward,
     [](auto& i) {
       i.options.mask = View(DType::kBool, {7, 7});
     },
     "options.mask.shape[0]", "is 7, must be 1 or q.shape[2] = 5"},
    {"mask_heads", Operation::kForward,
     [](auto& i) {
       i.options.mask = View(DType::kFloat32, {2, 3, 5, 7});
     },
     "options.mask.shape[1]", "is 3, must be 1 or q.shape[1] = 6"},
    {"mask_stride", Operation::kForward,
     [](auto& i) {
       i.options.mask = View(DType::kBool, {5, 7});
       i.options.mask->strides[1] = -1;
     },
     "options.mask.strides[1]", "is -1, must not be negative"},
    {"mask_int32", Operation::kForward, [](auto& i) { i.options.mask = View(DType::kInt32, {7}); },
     "options.mask.dtype", "is int32, must be bool, float64, float32, float16 or bfloat16"},
    {"causal_alignment", Operation::kForward,
     [](auto& i) { i.options.causal_alignment = CausalAlignment{2}; }, "options.causal_alignment",
     "is 2, must be upper left or lower right"},
    {"softcap_zero", Operation::kForward, [](auto& i) { i.options.softcap = 0.0; },
     "options.softcap", "is 0, must be finite and above 0"},
    {"softcap_negative", Operation::kForward, [](auto& i) { i.options.softcap = -5.0; },
     "options.softcap", "is -5, must be finite and above 0"},
    {"softcap_infinite", Operation::kForward,
     [](auto& i) { i.options.softcap = std::numeric_limits<double>::infinity(); },
     "options.softcap", "is inf, must be finite and above 0"},
    {"softcap_nan", Operation::kForward, [](auto& i) { i.options.softcap = std::nan(""); },
     "options.softcap", "is nan, must be finite and above 0"},
    {"alibi_dtype", Operation::kForward,
     [](auto& i) { i.options.alibi_slopes = View(DType::kInt32, {6}); },
     "options.alibi_slopes.dtype", "is int32, must be float64, float32, float16 or bfloat16"},
    {"alibi_rank", Operation::kForward,
     [](auto& i) {
       i.options.alibi_slopes = View(DType::kFloat32, {2, 6, 1});
     },
     "options.alibi_slopes.shape",
     "has 3 dimensions, must have 1 or 2: [heads_q] or [batch, heads_q]"},
    {"alibi_heads", Operation::kForward,
     [](auto& i) { i.options.alibi_slopes = View(DType::kFloat32, {3}); },
     "options.alibi_slopes.shape[0]", "is 3, must equal q.shape[1] = 6"},
    {"alibi_batch", Operation::kForward,
     [](auto& i) {
       i.options.alibi_slopes = View(DType::kFloat32, {1, 6});
     },
     "options.alibi_slopes.shape[0]", "is 1, must equal q.shape[0] = 2"},
    {"kv_lengths_dtype", Operation::kForward,
     [](auto& i) { i.options.kv_lengths = View(DType::kFloat32, {2}); }, "options.kv_lengths.dtype",
     "is float32, must be int32"},
    {"kv_lengths_rank", Operation::kForward,
     [](auto& i) {
       i.options.kv_lengths = View(DType::kInt32, {2, 1});
     },
     "options.kv_lengths.shape", "has 2 dimensions, must have 1: [batch]"},
    {"kv_lengths_batch", Operation::kForward,
     [](auto& i) { i.options.kv_lengths = View(DType::kInt32, {3}); },
     "options.kv_lengths.shape[0]", "is 3, must equal q.shape[0] = 2"},
    {"documents_of_q_alone", Operation::kForward,
     [](auto& i) { i.options.cu_seqlens_q = View(DType::kInt32, {3}); }, "options.cu_seqlens_kv",
     "is missing, must be given together with options.cu_seqlens_q"},
    {"documents_of_kv_alone", Operation::kForward,
     [](auto& i) { i.options.cu_seqlens_kv = View(DType::kInt32, {3}); }, "options.cu_seqlens_q",
     "is missing, must be given together with options.cu_seqlens_kv"},
    {"documents_dtype", Operation::kForward,
     [](auto& i) {
       SetDocuments(3, i);
       i.options.cu_seqlens_kv->dtype = DType::kBool;
     },
     "options.cu_seqlens_kv.dtype", "is bool, must be int32"},
    {"documents_rank", Operation::kForward,
     [](auto& i) {
       SetDocuments(3, i);
       i.options.cu_seqlens_q->rank = 0;
     },
     "options.cu_seqlens_q.shape", "has 0 dimensions, must have 1: [documents + 1]"},
    {"documents_none", Operation::kForward, [](auto& i) { SetDocuments(0, i); },
     "options.cu_seqlens_q.shape[0]", "is 0, must be at least 1"},
    {"documents_differ", Operation::kForward,
     [](auto& i) {
       SetDocuments(3, i);
       i.options.cu_seqlens_kv->shape[0] = 4;
     },
     "options.cu_seqlens_kv.shape[0]", "is 4, must equal options.cu_seqlens_q.shape[0] = 3"},
    {"documents_of_a_batch", Operation::kForward, [](auto& i) { SetDocuments(3, i); }, "q.shape[0]",
     "is 2, must be 1 with options.cu_seqlens_q"},
    {"documents_and_lengths", Operation::kForward,
     [](auto& i) {
       SetDocuments(3, i);
       i.options.kv_lengths = View(DType::kInt32, {2});
     },
     "options.kv_lengths", "is given, must be absent: options.cu_seqlens_kv sets the lengths"},
    {"dropout_one", Operation::kForward, [](auto& i) { i.options.dropout.probability = 1.0; },
     "options.dropout.probability", "is 1, must be at least 0 and below 1"},
    {"dropout_negative", Operation::kForward, [](auto& i) { i.options.dropout.probability = -0.1; },
     "options.dropout.probability", "is -0.1, must be at least 0 and below 1"},
    {"dropout_nan", Operation::kForward,
     [](auto& i) { i.options.dropout.probability = std::nan(""); }, "options.dropout.probability",
     "is nan, must be at least 0 and below 1"},
    {"precision", Operation::kForward, [](auto& i) { i.options.precision = Precision{7}; },
     "options.precision", "is 7, must be strict or fast"},
    {"implementation", Operation::kForward,
     [](auto& i) { i.options.implementation = Implementation{9}; }, "options.implementation",
     "is 9, must be auto, fused, unfused or reference"},
};

INSTANTIATE_TEST_SUITE_P(All, ValidateMistakeTest, testing::ValuesIn(kMistakes),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ValidateTest, UnknownOperation) {
  const absl::Status status = Validate(Operation{42}, ValidInputs(Operation::kForward)).status();
  EXPECT_EQ(std::string(status.message()), "operation is 42, must be forward, vjp, jvp or hvp");
  EXPECT_EQ(FieldOf(status), "operation");
}

}  // namespace
}  // namespace theria
