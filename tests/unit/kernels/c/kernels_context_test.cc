#include "theria/kernels_context.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

namespace theria::kernels {
namespace {

TEST(ContextTest, RunsAndReportsErrors) {
  Context context;
  ASSERT_TRUE(Context::Create({.threads = 1}, &context).ok());
  std::vector<float> values(2 * 3 * 4, 0.5f);
  std::vector<float> result(values.size(), 0.0f);
  const theria_tensor q = RowMajor(values.data(), THERIA_FLOAT32, {1, 2, 3, 4});
  const theria_tensor o = RowMajor(result.data(), THERIA_FLOAT32, {1, 2, 3, 4});
  auto inputs = Sized<theria_inputs>();
  inputs.q = inputs.k = inputs.v = &q;
  auto outputs = Sized<theria_outputs>();
  outputs.o = &o;
  auto options = Sized<theria_options>();
  auto report = Sized<theria_report>();
  Context moved = std::move(context);
  ASSERT_TRUE(
      moved.Run(THERIA_FORWARD, inputs, options, outputs, Sized<theria_launch>(), &report).ok());
  EXPECT_EQ(result, values);  // equal rows of v average to themselves
  EXPECT_EQ(report.implementation, THERIA_REFERENCE);
  EXPECT_TRUE(moved.Synchronize(nullptr).ok());

  options.has_scale = 1;
  options.scale = std::nan("");
  const Status status = moved.Run(THERIA_FORWARD, inputs, options, outputs);
  EXPECT_EQ(status.code, THERIA_INVALID_ARGUMENT);
  EXPECT_EQ(status.field, "options.scale");
  EXPECT_NE(status.message, "");
}

TEST(ContextTest, SaysWhyThereIsNone) {
  Context context;
  const Status status = Context::Create({.type = THERIA_CUDA, .ordinal = 1000}, &context);
  EXPECT_EQ(status.code, THERIA_UNAVAILABLE);
  EXPECT_NE(status.message, "");
  EXPECT_EQ(context.get(), nullptr);
}

}  // namespace
}  // namespace theria::kernels
