// The fields of the C interface that came after the first ones, each against its formula.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include "theria/kernels.h"

namespace {

constexpr std::int64_t kQueries = 3;
constexpr std::int64_t kKeys = 5;
constexpr std::int64_t kDim = 2;
constexpr double kForbidden = -std::numeric_limits<double>::infinity();

template <typename Struct>
Struct Sized() {
  Struct value = {};
  value.struct_size = sizeof(value);
  return value;
}

std::vector<double> Waves(std::int64_t count, double phase) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = 1.5 * std::sin(0.7 * static_cast<double>(i) + phase);
  }
  return values;
}

theria_tensor Tensor(void* data, theria_dtype dtype, std::initializer_list<std::int64_t> shape) {
  theria_tensor tensor = Sized<theria_tensor>();
  tensor.dtype = dtype;
  tensor.data = data;
  for (const std::int64_t extent : shape) tensor.shape[tensor.rank++] = extent;
  std::int64_t stride = 1;
  for (int axis = tensor.rank - 1; axis >= 0; --axis) {
    tensor.strides[axis] = stride;
    stride *= tensor.shape[axis];
  }
  return tensor;
}

class OptionsTest : public ::testing::Test {
 protected:
  // What becomes of the scaled product u of row i and key j.
  using Score = std::function<double(double u, std::int64_t i, std::int64_t j)>;

  OptionsTest() {
    EXPECT_EQ(theria_context_create(nullptr, &context_), THERIA_OK) << theria_error_message();
    inputs_.q = &q_;
    inputs_.k = &k_;
    inputs_.v = &v_;
    outputs_.o = &o_;
    outputs_.lse = &lse_;
  }
  ~OptionsTest() override { theria_context_destroy(context_); }

  theria_code Run(theria_operation operation = THERIA_FORWARD) {
    return theria_run(context_, operation, &inputs_, &options_, &outputs_, nullptr, nullptr);
  }
  void ExpectRefused(const std::string& field, theria_operation operation = THERIA_FORWARD) {
    EXPECT_EQ(Run(operation), THERIA_INVALID_ARGUMENT);
    EXPECT_EQ(theria_error_field(), field) << theria_error_message();
  }

  double ScoreOf(const Score& score, std::int64_t i, std::int64_t j) const {
    double u = 0.0;
    for (std::int64_t d = 0; d < kDim; ++d) u += q_values_[i * kDim + d] * k_values_[j * kDim + d];
    return score(u / std::sqrt(static_cast<double>(kDim)), i, j);
  }
  // The definition of o and lse.
  void ExpectForward(const Score& score) {
    ASSERT_EQ(Run(), THERIA_OK) << theria_error_message();
    for (std::int64_t i = 0; i < kQueries; ++i) {
      double sum = 0.0, first = 0.0;
      for (std::int64_t j = 0; j < kKeys; ++j) {
        const double weight = std::exp(ScoreOf(score, i, j));
        sum += weight;
        first += weight * v_values_[j * kDim];
      }
      EXPECT_NEAR(o_values_[i * kDim], sum == 0.0 ? 0.0 : first / sum, 1e-13) << "row " << i;
      if (sum == 0.0) {
        EXPECT_EQ(lse_values_[i], kForbidden);
      } else {
        EXPECT_NEAR(lse_values_[i], std::log(sum), 1e-13) << "row " << i;
      }
    }
  }

  theria_context* context_ = nullptr;
  std::vector<double> q_values_ = Waves(kQueries * kDim, 0), k_values_ = Waves(kKeys * kDim, 1);
  std::vector<double> v_values_ = Waves(kKeys * kDim, 2);
  std::vector<double> o_values_ = std::vector<double>(kQueries * kDim);
  std::vector<double> lse_values_ = std::vector<double>(kQueries);
  theria_tensor q_ = Tensor(q_values_.data(), THERIA_FLOAT64, {1, 1, kQueries, kDim});
  theria_tensor k_ = Tensor(k_values_.data(), THERIA_FLOAT64, {1, 1, kKeys, kDim});
  theria_tensor v_ = Tensor(v_values_.data(), THERIA_FLOAT64, {1, 1, kKeys, kDim});
  theria_tensor o_ = Tensor(o_values_.data(), THERIA_FLOAT64, {1, 1, kQueries, kDim});
  theria_tensor lse_ = Tensor(lse_values_.data(), THERIA_FLOAT64, {1, 1, kQueries});
  theria_inputs inputs_ = Sized<theria_inputs>();
  theria_outputs outputs_ = Sized<theria_outputs>();
  theria_options options_ = Sized<theria_options>();
};

TEST_F(OptionsTest, Softcap) {
  options_.softcap = 0.5;
  ExpectForward([](double u, std::int64_t, std::int64_t) { return 0.5 * std::tanh(u / 0.5); });
}

TEST_F(OptionsTest, AlibiSlopes) {
  float slope = 0.25f;
  const theria_tensor slopes = Tensor(&slope, THERIA_FLOAT32, {1});
  options_.alibi_slopes = &slopes;
  ExpectForward([](double u, std::int64_t i, std::int64_t j) {
    return u - 0.25 * std::abs(static_cast<double>(i - j));
  });
}

TEST_F(OptionsTest, CausalAlignment) {
  options_.is_causal = 1;
  options_.causal_alignment = THERIA_LOWER_RIGHT;
  ExpectForward([](double u, std::int64_t i, std::int64_t j) {
    return j <= i + kKeys - kQueries ? u : kForbidden;
  });
}

TEST_F(OptionsTest, KeyLengths) {
  std::int32_t length = 2;
  const theria_tensor lengths = Tensor(&length, THERIA_INT32, {1});
  options_.kv_lengths = &lengths;
  ExpectForward([](double u, std::int64_t, std::int64_t j) { return j < 2 ? u : kForbidden; });
}

TEST_F(OptionsTest, Documents) {
  std::int32_t of_q[] = {0, 1, 2, 3};
  std::int32_t of_kv[] = {0, 3, 3, 5};
  const theria_tensor q = Tensor(of_q, THERIA_INT32, {4});
  const theria_tensor kv = Tensor(of_kv, THERIA_INT32, {4});
  options_.cu_seqlens_q = &q;
  options_.cu_seqlens_kv = &kv;
  options_.deterministic = 1;
  ExpectForward([&](double u, std::int64_t i, std::int64_t j) {
    return of_kv[i] <= j && j < of_kv[i + 1] ? u : kForbidden;
  });
}

// lse alone, of which S_bar = P * lse_bar, to first and second order.
TEST_F(OptionsTest, DerivativesOfLseAndBias) {
  std::vector<double> mask_values = Waves(kKeys, 5);
  std::vector<double> mask_dot_values = Waves(kKeys, 6);
  std::vector<double> lse_bar_values = {1.0, -2.0, 0.5};
  std::vector<double> lse_bar_dot_values = {0.3, 0.0, -1.0};
  std::vector<double> bar_values(kKeys), bar_dot_values(kKeys);
  const theria_tensor mask = Tensor(mask_values.data(), THERIA_FLOAT64, {kKeys});
  const theria_tensor bias_dot = Tensor(mask_dot_values.data(), THERIA_FLOAT64, {kKeys});
  const theria_tensor lse_bar = Tensor(lse_bar_values.data(), THERIA_FLOAT64, {1, 1, kQueries});
  const theria_tensor lse_bar_dot =
      Tensor(lse_bar_dot_values.data(), THERIA_FLOAT64, {1, 1, kQueries});
  const theria_tensor bias_bar = Tensor(bar_values.data(), THERIA_FLOAT64, {kKeys});
  const theria_tensor bias_bar_dot = Tensor(bar_dot_values.data(), THERIA_FLOAT64, {kKeys});
  options_.mask = &mask;
  inputs_.lse_bar = &lse_bar;
  inputs_.lse_bar_dot = &lse_bar_dot;
  inputs_.bias_dot = &bias_dot;
  outputs_.bias_bar = &bias_bar;
  outputs_.bias_bar_dot = &bias_bar_dot;
  std::vector<double> lse_dot_values(kQueries);
  const theria_tensor lse_dot = Tensor(lse_dot_values.data(), THERIA_FLOAT64, {1, 1, kQueries});
  outputs_.lse_dot = &lse_dot;
  ASSERT_EQ(Run(THERIA_HVP), THERIA_OK) << theria_error_message();

  std::vector<double> bar(kKeys), bar_dot(kKeys);
  for (std::int64_t i = 0; i < kQueries; ++i) {
    std::vector<double> p(kKeys);
    double sum = 0.0, mean = 0.0;
    for (std::int64_t j = 0; j < kKeys; ++j) {
      p[j] = std::exp(ScoreOf([](double u, std::int64_t, std::int64_t) { return u; }, i, j) +
                      mask_values[j]);
      sum += p[j];
    }
    for (std::int64_t j = 0; j < kKeys; ++j) mean += (p[j] /= sum) * mask_dot_values[j];
    EXPECT_NEAR(lse_dot_values[i], mean, 1e-14);
    for (std::int64_t j = 0; j < kKeys; ++j) {
      bar[j] += p[j] * lse_bar_values[i];
      bar_dot[j] +=
          p[j] * (lse_bar_values[i] * (mask_dot_values[j] - mean) + lse_bar_dot_values[i]);
    }
  }
  for (std::int64_t j = 0; j < kKeys; ++j) {
    EXPECT_NEAR(bar_values[j], bar[j], 1e-14);
    EXPECT_NEAR(bar_dot_values[j], bar_dot[j], 1e-14);
  }
  theria_tensor layout = Sized<theria_tensor>();
  ASSERT_EQ(theria_output_layout(THERIA_HVP, &inputs_, &options_, "bias_bar_dot", &layout),
            THERIA_OK);
  EXPECT_EQ(layout.rank, 1);
  EXPECT_EQ(layout.shape[0], kKeys);
  options_.mask = nullptr;
  inputs_.bias_dot = nullptr;
  EXPECT_EQ(theria_output_layout(THERIA_HVP, &inputs_, &options_, "bias_bar_dot", &layout),
            THERIA_INVALID_ARGUMENT);
}

TEST_F(OptionsTest, EmptyTensorsNeedNoData) {
  for (theria_tensor* tensor : {&k_, &v_}) {
    tensor->shape[2] = 0;
    tensor->data = nullptr;
  }
  ExpectForward([](double, std::int64_t, std::int64_t) { return kForbidden; });
}

TEST_F(OptionsTest, NamesTheFieldAtFault) {
  options_.softcap = -1.0;
  ExpectRefused("options.softcap");
  options_.softcap = std::nan("");
  ExpectRefused("options.softcap");
  options_ = Sized<theria_options>();
  options_.causal_alignment = 2;
  ExpectRefused("options.causal_alignment");
  options_ = Sized<theria_options>();
  theria_tensor lengths = Tensor(nullptr, THERIA_INT32, {1});
  options_.kv_lengths = &lengths;
  ExpectRefused("options.kv_lengths.data");
  lengths.dtype = 6;
  ExpectRefused("options.kv_lengths.dtype");
  options_ = Sized<theria_options>();
  theria_tensor slopes = Tensor(lse_values_.data(), THERIA_FLOAT64, {3});
  options_.alibi_slopes = &slopes;
  ExpectRefused("options.alibi_slopes.shape[0]");
  options_ = Sized<theria_options>();
  theria_tensor offsets = Tensor(lse_values_.data(), THERIA_INT32, {2});
  options_.cu_seqlens_q = &offsets;
  ExpectRefused("options.cu_seqlens_kv");
  options_ = Sized<theria_options>();
  options_.cu_seqlens_kv = &offsets;
  ExpectRefused("options.cu_seqlens_q");
  options_ = Sized<theria_options>();
  inputs_.lse_bar = &lse_;
  ExpectRefused("lse_bar");
  outputs_.bias_bar = &lse_;
  ExpectRefused("outputs.bias_bar", THERIA_VJP);
  inputs_.lse_bar = nullptr;
  outputs_.bias_bar = nullptr;
  inputs_.bias_dot = &lse_;
  ExpectRefused("bias_dot", THERIA_JVP);
}

}  // namespace
