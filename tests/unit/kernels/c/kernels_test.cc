#include "theria/kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/kernels/c/naive_forward.h"

extern "C" int theria_header_test(void);

namespace {

using ::testing::HasSubstr;

constexpr std::int64_t kSeq = 5;
constexpr std::int64_t kDim = 4;

template <typename Struct>
Struct Sized() {
  Struct value = {};
  value.struct_size = sizeof(value);
  return value;
}

std::vector<double> Waves(double phase) {
  std::vector<double> values(kSeq * kDim);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = std::sin(0.7 * static_cast<double>(i) + phase);
  }
  return values;
}

theria_tensor Tensor(std::vector<double>& values) {
  theria_tensor tensor = Sized<theria_tensor>();
  tensor.dtype = THERIA_FLOAT64;
  tensor.rank = 4;
  tensor.data = values.data();
  const std::int64_t shape[] = {1, 1, kSeq, kDim};
  const std::int64_t strides[] = {kSeq * kDim, kSeq * kDim, kDim, 1};
  std::memcpy(tensor.shape, shape, sizeof(shape));
  std::memcpy(tensor.strides, strides, sizeof(strides));
  return tensor;
}

class KernelsTest : public ::testing::Test {
 protected:
  KernelsTest() {
    theria_context_options options = Sized<theria_context_options>();
    options.threads = 2;
    EXPECT_EQ(theria_context_create(&options, &context_), THERIA_OK) << theria_error_message();
    inputs_.q = &q_;
    inputs_.k = &k_;
    inputs_.v = &v_;
    outputs_.o = &o_;
  }
  ~KernelsTest() override { theria_context_destroy(context_); }

  theria_code Run(theria_operation operation = THERIA_FORWARD) {
    return theria_run(context_, operation, &inputs_, &options_, &outputs_, &launch_, &report_);
  }

  // Expects the call to be refused for `field`.
  void ExpectRefused(const std::string& field, theria_operation operation = THERIA_FORWARD) {
    EXPECT_EQ(Run(operation), THERIA_INVALID_ARGUMENT);
    EXPECT_EQ(theria_error_field(), field) << theria_error_message();
    EXPECT_THAT(theria_error_message(), HasSubstr(field));
  }

  theria_context* context_ = nullptr;
  std::vector<double> q_values_ = Waves(0), k_values_ = Waves(1), v_values_ = Waves(2);
  std::vector<double> o_values_ = std::vector<double>(kSeq * kDim, std::nan(""));
  theria_tensor q_ = Tensor(q_values_), k_ = Tensor(k_values_), v_ = Tensor(v_values_);
  theria_tensor o_ = Tensor(o_values_);
  theria_inputs inputs_ = Sized<theria_inputs>();
  theria_outputs outputs_ = Sized<theria_outputs>();
  theria_options options_ = Sized<theria_options>();
  theria_launch launch_ = Sized<theria_launch>();
  theria_report report_ = Sized<theria_report>();
};

TEST(KernelsHeaderTest, ServesC) { EXPECT_EQ(theria_header_test(), 0); }

TEST(KernelsHeaderTest, TellsItsVersions) {
  EXPECT_EQ(theria_abi(), THERIA_KERNELS_ABI);
  EXPECT_STREQ(theria_version(), "0.1.0");
}

TEST(KernelsHeaderTest, RefusesDevicesThatAreNotThere) {
  theria_context* context = nullptr;
  theria_context_options options = Sized<theria_context_options>();
  options.device_type = THERIA_CUDA;
  options.device_ordinal = 1000;
  EXPECT_EQ(theria_context_create(&options, &context), THERIA_UNAVAILABLE);
  EXPECT_STRNE(theria_error_message(), "");
  options = Sized<theria_context_options>();
  options.threads = -1;
  EXPECT_EQ(theria_context_create(&options, &context), THERIA_INVALID_ARGUMENT);
  EXPECT_STREQ(theria_error_field(), "threads");
  EXPECT_EQ(context, nullptr);
}

TEST_F(KernelsTest, ComputesForward) {
  ASSERT_EQ(Run(), THERIA_OK) << theria_error_message();
  const std::vector<double> expected =
      NaiveForward(q_values_, k_values_, v_values_, kSeq, kDim, false);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(o_values_[i], expected[i], 1e-14);
  EXPECT_EQ(report_.implementation, THERIA_REFERENCE);
  EXPECT_STREQ(report_.kernel, "cpu_reference_forward");
  EXPECT_GT(report_.compute_seconds, 0.0);
  EXPECT_STREQ(theria_error_message(), "");
}

TEST_F(KernelsTest, HonoursOptionsAndStrides) {
  // o is written with its last two axes exchanged.
  o_.strides[2] = 1;
  o_.strides[3] = kSeq;
  options_.is_causal = 1;
  ASSERT_EQ(Run(), THERIA_OK) << theria_error_message();
  const std::vector<double> expected =
      NaiveForward(q_values_, k_values_, v_values_, kSeq, kDim, true);
  for (std::int64_t i = 0; i < kSeq; ++i) {
    for (std::int64_t d = 0; d < kDim; ++d) {
      EXPECT_NEAR(o_values_[d * kSeq + i], expected[i * kDim + d], 1e-14);
    }
  }
}

TEST_F(KernelsTest, ComputesAJvpThatIsTheDifferenceQuotient) {
  std::vector<double> q_dot_values = Waves(3);
  const theria_tensor q_dot = Tensor(q_dot_values);
  std::vector<double> o_dot_values(o_values_.size());
  const theria_tensor o_dot = Tensor(o_dot_values);
  inputs_.q_dot = &q_dot;
  outputs_.o_dot = &o_dot;
  ASSERT_EQ(Run(THERIA_JVP), THERIA_OK) << theria_error_message();
  const double step = 1e-6;
  const auto moved = [&](double by) {
    std::vector<double> q = q_values_;
    for (std::size_t i = 0; i < q.size(); ++i) q[i] += by * q_dot_values[i];
    return NaiveForward(q, k_values_, v_values_, kSeq, kDim, false);
  };
  const std::vector<double> above = moved(step), below = moved(-step);
  for (std::size_t i = 0; i < above.size(); ++i) {
    EXPECT_NEAR(o_dot_values[i], (above[i] - below[i]) / (2 * step), 1e-9);
  }
}

TEST_F(KernelsTest, NullOptionsLaunchAndReportAreDefaults) {
  EXPECT_EQ(theria_run(context_, THERIA_FORWARD, &inputs_, nullptr, &outputs_, nullptr, nullptr),
            THERIA_OK);
}

TEST_F(KernelsTest, NamesTheFieldAtFault) {
  k_.shape[3] = 3;
  ExpectRefused("k.shape[3]");
  k_ = Tensor(k_values_);
  q_.rank = 5;
  ExpectRefused("q.shape");
  q_ = Tensor(q_values_);
  q_.dtype = 17;
  ExpectRefused("q.dtype");
  q_ = Tensor(q_values_);
  q_.data = nullptr;
  ExpectRefused("q.data");
  q_ = Tensor(q_values_);
  options_.has_window_left = 1;
  options_.window_left = -2;
  ExpectRefused("options.window.left");
  options_ = Sized<theria_options>();
  options_.precision = 9;
  ExpectRefused("options.precision");
  options_ = Sized<theria_options>();
  options_.dropout_probability = 1.0;
  ExpectRefused("options.dropout.probability");
  options_ = Sized<theria_options>();
  inputs_.v = nullptr;
  ExpectRefused("v");
  inputs_.v = &v_;
  ExpectRefused("o_bar", THERIA_VJP);
  ExpectRefused("operation", static_cast<theria_operation>(7));
}

TEST_F(KernelsTest, ChecksOutputs) {
  o_.shape[2] = kSeq - 1;
  ExpectRefused("outputs.o.shape[2]");
  o_ = Tensor(o_values_);
  o_.strides[2] = 0;
  ExpectRefused("outputs.o.strides[2]");
  o_ = Tensor(o_values_);
  o_.dtype = THERIA_FLOAT32;
  ExpectRefused("outputs.o.dtype");
  o_ = Tensor(o_values_);
  o_.data = nullptr;
  ExpectRefused("outputs.o.data");
  o_ = Tensor(o_values_);
  outputs_.q_bar = &o_;
  ExpectRefused("outputs.q_bar");
}

TEST_F(KernelsTest, SaysWhatItHasNoKernelFor) {
  options_.implementation = THERIA_FUSED;
  EXPECT_EQ(Run(), THERIA_UNIMPLEMENTED);
  EXPECT_THAT(theria_error_message(), HasSubstr("fused"));
  EXPECT_STREQ(theria_error_field(), "");
}

TEST_F(KernelsTest, GivesUpAtTheTimeout) {
  launch_.timeout_seconds = 1e-12;
  EXPECT_EQ(Run(), THERIA_DEADLINE_EXCEEDED);
}

TEST_F(KernelsTest, TakesStructsOfOlderAndNewerCallers) {
  // An older caller's options end before the window.
  options_.struct_size = offsetof(theria_options, scale);
  options_.scale = std::nan("");  // beyond its end
  EXPECT_EQ(Run(), THERIA_OK) << theria_error_message();

  struct Newer {
    theria_options options;
    std::int64_t unknown;
  } newer = {Sized<theria_options>(), 0};
  newer.options.struct_size = sizeof(newer);
  EXPECT_EQ(
      theria_run(context_, THERIA_FORWARD, &inputs_, &newer.options, &outputs_, nullptr, nullptr),
      THERIA_OK);
  newer.unknown = 1;
  EXPECT_EQ(
      theria_run(context_, THERIA_FORWARD, &inputs_, &newer.options, &outputs_, nullptr, nullptr),
      THERIA_UNIMPLEMENTED);

  options_ = {};
  ExpectRefused("options.struct_size");
}

TEST_F(KernelsTest, GivesLayoutsAndFlops) {
  std::vector<double> o_bar_values = Waves(4);
  const theria_tensor o_bar = Tensor(o_bar_values);
  inputs_.o_bar = &o_bar;
  theria_tensor layout = Sized<theria_tensor>();
  ASSERT_EQ(theria_output_layout(THERIA_VJP, &inputs_, nullptr, "lse", &layout), THERIA_OK);
  EXPECT_EQ(layout.rank, 3);
  EXPECT_EQ(layout.dtype, THERIA_FLOAT64);
  EXPECT_EQ(layout.shape[2], kSeq);
  EXPECT_EQ(layout.strides[2], 1);
  EXPECT_EQ(theria_output_layout(THERIA_VJP, &inputs_, nullptr, "o_dot", &layout),
            THERIA_INVALID_ARGUMENT);
  EXPECT_STREQ(theria_error_field(), "output");
  double flops = 0;
  ASSERT_EQ(theria_flops(THERIA_VJP, &inputs_, nullptr, &flops), THERIA_OK);
  EXPECT_EQ(flops, 5 * 2 * kSeq * kSeq * kDim);
  EXPECT_EQ(theria_validate(THERIA_VJP, &inputs_, nullptr), THERIA_OK);
}

TEST_F(KernelsTest, ListsItsKernels) {
  theria_kernel_support support = Sized<theria_kernel_support>();
  std::int32_t count = 0;
  while (theria_context_kernel(context_, count, &support) == THERIA_OK) {
    EXPECT_EQ(support.implementation, THERIA_REFERENCE);
    ++count;
  }
  EXPECT_EQ(count, 16);
  EXPECT_STREQ(theria_error_field(), "index");
}

TEST_F(KernelsTest, LendsMemory) {
  void* data = nullptr;
  ASSERT_EQ(theria_memory_allocate(context_, sizeof(double) * 2, &data), THERIA_OK);
  const double written[] = {1.5, -2.5};
  double read[2] = {};
  EXPECT_EQ(theria_memory_write(context_, data, written, sizeof(written)), THERIA_OK);
  EXPECT_EQ(theria_memory_read(context_, read, data, sizeof(read)), THERIA_OK);
  EXPECT_EQ(read[1], -2.5);
  theria_memory_free(context_, data);
  ASSERT_EQ(theria_memory_allocate(context_, 8, &data), THERIA_OK);  // goes with the context
  EXPECT_EQ(theria_synchronize(context_, nullptr), THERIA_OK);
}

TEST_F(KernelsTest, KeepsTheErrorsOfThreadsApart) {
  k_.shape[3] = 3;
  ASSERT_EQ(Run(), THERIA_INVALID_ARGUMENT);
  std::thread([] { EXPECT_STREQ(theria_error_message(), ""); }).join();
  EXPECT_STREQ(theria_error_field(), "k.shape[3]");
}

TEST_F(KernelsTest, ServesManyThreads) {
  ASSERT_EQ(Run(), THERIA_OK);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] {
      std::vector<double> values(o_values_.size());
      const theria_tensor o = Tensor(values);
      theria_outputs outputs = Sized<theria_outputs>();
      outputs.o = &o;
      for (int repeat = 0; repeat < 50; ++repeat) {
        ASSERT_EQ(
            theria_run(context_, THERIA_FORWARD, &inputs_, nullptr, &outputs, nullptr, nullptr),
            THERIA_OK);
        ASSERT_EQ(values, o_values_);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(KernelsNullTest, NullIsRefusedNotRead) {
  EXPECT_EQ(theria_run(nullptr, THERIA_FORWARD, nullptr, nullptr, nullptr, nullptr, nullptr),
            THERIA_INVALID_ARGUMENT);
  EXPECT_STREQ(theria_error_field(), "context");
  EXPECT_EQ(theria_validate(THERIA_FORWARD, nullptr, nullptr), THERIA_INVALID_ARGUMENT);
  EXPECT_EQ(theria_context_create(nullptr, nullptr), THERIA_INVALID_ARGUMENT);
  EXPECT_EQ(theria_context_device(nullptr, nullptr), THERIA_INVALID_ARGUMENT);
  theria_memory_free(nullptr, nullptr);
  theria_context_destroy(nullptr);
}

}  // namespace
