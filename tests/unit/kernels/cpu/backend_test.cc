#include "kernels/cpu/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace theria {
namespace {

using testing::HasSubstr;

// q, k and v of one element, repeated to any size.
AttentionInputs Repeated(const float* element, std::int64_t batch, std::int64_t seq,
                         std::int64_t dim) {
  AttentionInputs inputs;
  inputs.q = RowMajorView<const void>(element, DType::kFloat32, {batch, 1, seq, dim});
  inputs.q->strides = {0, 0, 0, 0};
  inputs.k = inputs.v = inputs.q;
  return inputs;
}

TEST(CpuBackendTest, Describes) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend();
  EXPECT_EQ(backend->name(), "cpu");
  EXPECT_EQ(&backend->memory(), &HostMemory());
  ASSERT_EQ(backend->Devices().size(), 1u);
  EXPECT_EQ(backend->Devices()[0].id, "cpu");
  EXPECT_FALSE(backend->Devices()[0].architecture.empty());
  EXPECT_GT(backend->Devices()[0].memory_bytes, 0u);
  EXPECT_EQ(backend->Kernels().size(), 16u);  // four operations, four dtypes
  for (const KernelSupport& kernel : backend->Kernels()) {
    EXPECT_EQ(kernel.implementation, Implementation::kReference);
    EXPECT_EQ(kernel.min_head_dim, 1);
    EXPECT_EQ(kernel.max_head_dim, 512);
    EXPECT_EQ(kernel.head_dim_multiple, 1);
  }
}

TEST(CpuBackendTest, OtherImplementationsAreUnimplemented) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend({.threads = 1});
  const float element = 1.0f;
  AttentionInputs inputs = Repeated(&element, 1, 4, 4);
  for (const Implementation implementation : {Implementation::kFused, Implementation::kUnfused}) {
    inputs.options.implementation = implementation;
    const auto problem = Validate(Operation::kForward, inputs);
    ASSERT_TRUE(problem.ok());
    const absl::Status supports = backend->Supports(*problem, inputs.options);
    EXPECT_EQ(supports.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(std::string(supports.message()), HasSubstr("supports auto and reference"));
    EXPECT_EQ(backend->Run(*problem, inputs, {}, NoInterrupt()).status(), supports);
  }
}

TEST(CpuBackendTest, ReportsTheReference) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend({.threads = 1});
  const float element = 1.0f;
  const AttentionInputs inputs = Repeated(&element, 1, 4, 4);
  const auto report =
      backend->Run(*Validate(Operation::kForward, inputs), inputs, {}, NoInterrupt());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->implementation, Implementation::kReference);
  EXPECT_EQ(report->kernel, "cpu_reference_forward");
  EXPECT_EQ(report->device, "cpu");
}

TEST(CpuBackendTest, WorkspaceBeyondTheMachineIsResourceExhausted) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend({.threads = 2});
  const float element = 1.0f;
  // One query over 2^56 repeated keys.
  AttentionInputs inputs = Repeated(&element, 1, 1, 1);
  inputs.k->shape[2] = inputs.v->shape[2] = std::int64_t{1} << 56;
  const auto problem = Validate(Operation::kForward, inputs);
  ASSERT_TRUE(problem.ok()) << problem.status();
  float o = 0.0f;
  AttentionOutputs outputs;
  outputs.o = OutputLayout(*problem, "o");
  outputs.o->data = &o;
  EXPECT_EQ(backend->Run(*problem, inputs, outputs, NoInterrupt()).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace theria
