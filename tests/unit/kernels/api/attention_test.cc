#include "kernels/api/attention.h"

#include <gtest/gtest.h>

#include <vector>

namespace theria {
namespace {

AttentionProblem Problem(Operation operation, DType dtype = DType::kFloat16) {
  AttentionProblem problem;
  problem.operation = operation;
  problem.dtype = dtype;
  problem.batch = 2;
  problem.heads_q = 6;
  problem.heads_kv = 3;
  problem.seq_q = 5;
  problem.seq_kv = 7;
  problem.head_dim = 8;
  problem.head_dim_v = 9;
  return problem;
}

TEST(AttentionTest, InvalidFieldCarriesItsField) {
  const absl::Status status = InvalidField("k.shape[3]", "is 48, must equal q.shape[3] = 64");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), "k.shape[3] is 48, must equal q.shape[3] = 64");
  EXPECT_EQ(FieldOf(status), "k.shape[3]");
  EXPECT_EQ(FieldOf(absl::InvalidArgumentError("k.shape[3] is 48")), std::nullopt);
  EXPECT_EQ(FieldOf(absl::OkStatus()), std::nullopt);
}

TEST(AttentionTest, Names) {
  EXPECT_EQ(OperationName(Operation::kForward), "forward");
  EXPECT_EQ(OperationName(Operation::kVjp), "vjp");
  EXPECT_EQ(OperationName(Operation::kJvp), "jvp");
  EXPECT_EQ(OperationName(Operation::kHvp), "hvp");
  EXPECT_EQ(ImplementationName(Implementation::kAuto), "auto");
  EXPECT_EQ(ImplementationName(Implementation::kFused), "fused");
  EXPECT_EQ(ImplementationName(Implementation::kUnfused), "unfused");
  EXPECT_EQ(ImplementationName(Implementation::kReference), "reference");
  EXPECT_EQ(PrecisionName(Precision::kStrict), "strict");
  EXPECT_EQ(PrecisionName(Precision::kFast), "fast");
}

TEST(AttentionTest, OutputsOfEachOperation) {
  const auto count = [](Operation operation) {
    int outputs = 0;
    for (const OutputField& field : kOutputFields) outputs += HasOutput(operation, field.name);
    return outputs;
  };
  EXPECT_EQ(count(Operation::kForward), 2);
  EXPECT_EQ(count(Operation::kVjp), 6);
  EXPECT_EQ(count(Operation::kJvp), 4);
  EXPECT_EQ(count(Operation::kHvp), 12);
  EXPECT_TRUE(HasOutput(Operation::kVjp, "q_bar"));
  EXPECT_FALSE(HasOutput(Operation::kVjp, "q_bar_dot"));
  EXPECT_TRUE(HasOutput(Operation::kJvp, "lse_dot"));
  EXPECT_FALSE(HasOutput(Operation::kHvp, "q"));
}

TEST(AttentionTest, InputsOfEachOperation) {
  const auto count = [](Operation operation) {
    int inputs = 0;
    for (const InputField& field : kInputFields) inputs += HasInput(operation, field.name);
    return inputs;
  };
  EXPECT_EQ(count(Operation::kForward), 3);
  EXPECT_EQ(count(Operation::kVjp), 7);
  EXPECT_EQ(count(Operation::kJvp), 9);
  EXPECT_EQ(count(Operation::kHvp), 13);
  EXPECT_FALSE(HasInput(Operation::kHvp, "q_bar"));
}

TEST(AttentionTest, OnlyBiasOutputsAreOfTheBias) {
  int outputs = 0;
  for (const OutputField& field : kOutputFields) outputs += IsOfBias(field.name);
  EXPECT_EQ(outputs, 2);
  EXPECT_TRUE(IsOfBias("bias_bar"));
  EXPECT_TRUE(IsOfBias("bias_bar_dot"));
}

TEST(AttentionTest, EveryInputIsVisitedOnce) {
  AttentionInputs inputs;
  std::size_t count = 0;
  ForEachInput(inputs, [&](std::string_view, std::optional<TensorView>& view) {
    EXPECT_FALSE(view.has_value());
    view.emplace();
    ++count;
  });
  EXPECT_EQ(count, std::size(kInputFields) + std::size(kOptionTensors));
  // Every optional tensor of the structs is in a table.
  EXPECT_GE(sizeof(AttentionInputs), count * sizeof(std::optional<TensorView>));
  EXPECT_LT(sizeof(AttentionInputs), (count + 2) * sizeof(std::optional<TensorView>));
  EXPECT_EQ(sizeof(AttentionOutputs),
            std::size(kOutputFields) * sizeof(std::optional<MutableTensorView>));
}

TEST(AttentionTest, ScalarOptionsTellCallsApart) {
  const auto key = [](const AttentionOptions& options) {
    std::vector<double> values;
    ForEachScalarOption(options, [&](auto value) { values.push_back(static_cast<double>(value)); });
    return values;
  };
  const std::vector<double> plain = key({});
  const auto differs = [&](auto set) {
    AttentionOptions options;
    set(options);
    return key(options) != plain && key(options).size() == plain.size();
  };
  EXPECT_TRUE(differs([](auto& o) { o.is_causal = true; }));
  EXPECT_TRUE(differs([](auto& o) { o.causal_alignment = CausalAlignment::kLowerRight; }));
  EXPECT_TRUE(differs([](auto& o) { o.window = Window{0, std::nullopt}; }));
  EXPECT_TRUE(differs([](auto& o) { o.window = Window{std::nullopt, 0}; }));
  EXPECT_TRUE(differs([](auto& o) { o.softcap = 1.0; }));
  EXPECT_TRUE(differs([](auto& o) { o.dropout.probability = 0.5; }));
  EXPECT_TRUE(differs([](auto& o) { o.dropout.seed = 1; }));
  EXPECT_TRUE(differs([](auto& o) { o.dropout.offset = 1; }));
  EXPECT_TRUE(differs([](auto& o) { o.deterministic = true; }));
  EXPECT_TRUE(differs([](auto& o) { o.precision = Precision::kFast; }));
  EXPECT_TRUE(differs([](auto& o) { o.implementation = Implementation::kFused; }));
}

TEST(AttentionTest, OutputLayouts) {
  const AttentionProblem problem = Problem(Operation::kHvp);
  const auto shape = [&](std::string_view name) {
    const MutableTensorView view = OutputLayout(problem, name);
    EXPECT_EQ(view.data, nullptr);
    EXPECT_TRUE(view.IsRowMajor());
    return std::vector<std::int64_t>(view.shape.begin(), view.shape.begin() + view.rank);
  };
  using Shape = std::vector<std::int64_t>;
  EXPECT_EQ(shape("o"), (Shape{2, 6, 5, 9}));
  EXPECT_EQ(shape("o_dot"), (Shape{2, 6, 5, 9}));
  EXPECT_EQ(shape("lse"), (Shape{2, 6, 5}));
  EXPECT_EQ(shape("lse_dot"), (Shape{2, 6, 5}));
  EXPECT_EQ(shape("q_bar"), (Shape{2, 6, 5, 8}));
  EXPECT_EQ(shape("k_bar_dot"), (Shape{2, 3, 7, 8}));
  EXPECT_EQ(shape("v_bar"), (Shape{2, 3, 7, 9}));
  EXPECT_EQ(OutputLayout(problem, "o").dtype, DType::kFloat16);
  EXPECT_EQ(OutputLayout(problem, "lse").dtype, DType::kFloat32);
  EXPECT_EQ(OutputLayout(Problem(Operation::kHvp, DType::kFloat64), "lse_dot").dtype,
            DType::kFloat64);
}

TEST(AttentionTest, ScoreModOfOptions) {
  const AttentionProblem problem = Problem(Operation::kForward);
  AttentionOptions options;
  ScoreMod mod = MakeScoreMod(problem, options);
  EXPECT_EQ(mod.window_left, ScoreMod::kUnbounded);
  EXPECT_EQ(mod.window_right, ScoreMod::kUnbounded);
  EXPECT_EQ(mod.mask, nullptr);
  EXPECT_FALSE(mod.dropout.enabled());

  options.window = Window{3, INT64_MAX};
  mod = MakeScoreMod(problem, options);
  EXPECT_EQ(mod.window_left, 3);
  EXPECT_EQ(mod.window_right, ScoreMod::kUnbounded);
  options.is_causal = true;
  EXPECT_EQ(MakeScoreMod(problem, options).window_right, 0);

  const bool elements[7] = {};
  options.mask = RowMajorView<const void>(elements, DType::kBool, {1, 7});
  options.mask->strides[0] = 99;  // of an extent of 1: repeats all the same
  options.dropout = {0.5, 1, 2};
  mod = MakeScoreMod(problem, options);
  EXPECT_EQ(mod.mask, elements);
  EXPECT_EQ(mod.mask_dtype, DType::kBool);
  EXPECT_EQ(mod.mask_strides[0], 0);
  EXPECT_EQ(mod.mask_strides[1], 0);
  EXPECT_EQ(mod.mask_strides[2], 0);
  EXPECT_EQ(mod.mask_strides[3], 1);
  EXPECT_TRUE(mod.dropout.enabled());
}

TEST(AttentionTest, ScoreModOfTheOtherOptions) {
  AttentionProblem problem = Problem(Operation::kForward);
  AttentionOptions options;
  ScoreMod mod = MakeScoreMod(problem, options);
  EXPECT_EQ(mod.seq_q, 5);
  EXPECT_EQ(mod.seq_kv, 7);
  EXPECT_FALSE(mod.lower_right);
  EXPECT_FALSE(mod.softcap.enabled());
  EXPECT_EQ(mod.alibi_slopes, nullptr);
  EXPECT_EQ(mod.kv_lengths.data, nullptr);
  EXPECT_EQ(mod.cu_seqlens_q.data, nullptr);

  const std::int32_t numbers[4] = {0, 2, 5, 5};
  const float slopes[12] = {};
  options.causal_alignment = CausalAlignment::kLowerRight;
  options.softcap = 30.0;
  options.kv_lengths = RowMajorView<const void>(numbers, DType::kInt32, {2});
  options.kv_lengths->strides[0] = 2;
  options.alibi_slopes = RowMajorView<const void>(slopes, DType::kFloat32, {2, 6});
  mod = MakeScoreMod(problem, options);
  EXPECT_TRUE(mod.lower_right);
  EXPECT_EQ(mod.softcap.cap, 30.0);
  EXPECT_EQ(mod.kv_lengths.At(1, 7), 5);
  EXPECT_EQ(mod.alibi_slopes, slopes);
  EXPECT_EQ(mod.alibi_dtype, DType::kFloat32);
  EXPECT_EQ(mod.alibi_strides[0], 6);
  EXPECT_EQ(mod.alibi_strides[1], 1);
  options.alibi_slopes = RowMajorView<const void>(slopes, DType::kFloat32, {6});
  mod = MakeScoreMod(problem, options);
  EXPECT_EQ(mod.alibi_strides[0], 0);
  EXPECT_EQ(mod.alibi_strides[1], 1);

  options.kv_lengths.reset();
  options.cu_seqlens_q = RowMajorView<const void>(numbers, DType::kInt32, {4});
  options.cu_seqlens_kv = options.cu_seqlens_q;
  mod = MakeScoreMod(problem, options);
  EXPECT_EQ(mod.documents, 3);
  EXPECT_EQ(mod.cu_seqlens_q.data, numbers);
  EXPECT_EQ(mod.cu_seqlens_kv.data, numbers);
}

TEST(AttentionTest, Flops) {
  AttentionProblem problem = Problem(Operation::kForward);
  problem.head_dim_v = problem.head_dim;
  const double product = 2.0 * 2 * 6 * 5 * 7 * 8;
  AttentionOptions options;
  const auto products = [&](Operation operation) {
    problem.operation = operation;
    return AttentionFlops(problem, options) / product;
  };
  EXPECT_DOUBLE_EQ(products(Operation::kForward), 2);
  EXPECT_DOUBLE_EQ(products(Operation::kVjp), 5);
  EXPECT_DOUBLE_EQ(products(Operation::kJvp), 6);
  EXPECT_DOUBLE_EQ(products(Operation::kHvp), 21);
  options.is_causal = true;
  EXPECT_DOUBLE_EQ(products(Operation::kVjp), 2.5);
}

}  // namespace
}  // namespace theria
