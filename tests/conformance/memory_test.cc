// Memory that grows with the sequence, not with its square.

// Sanitizers take memory of their own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/backend.h"
#include "tests/conformance/tolerances.h"

namespace theria::conformance {
namespace {

// A field of /proc/self/status in bytes.
std::int64_t StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field + ":", 0) == 0) return std::stoll(line.substr(field.size() + 1)) * 1024;
  }
  return 0;
}

// Here q, k, v and o have one shape.
bool IsShapedAsQ(Like like) { return like != Like::kLse && like != Like::kBias; }

TEST(CpuMemoryTest, HvpOfLongSequencesTakesLittle) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend({.threads = 2});
  const std::int64_t count = 8192 * 64;
  std::vector<std::vector<double>> storage;
  const auto filled = [&] {
    return RowMajorView<void>(storage.emplace_back(count, 0.1).data(), DType::kFloat64,
                              {1, 1, 8192, 64});
  };
  const auto input = [&] {
    const MutableTensorView view = filled();
    return TensorView{view.data, view.dtype, view.rank, view.shape, view.strides};
  };
  AttentionInputs inputs;
  for (const InputField& field : kInputFields) {
    if (field.name != "o" && IsShapedAsQ(field.like)) inputs.*field.member = input();
  }
  AttentionOutputs outputs;
  for (const OutputField& field : kOutputFields) {
    if (IsShapedAsQ(field.like)) outputs.*field.member = filled();
  }
  const auto problem = Validate(Operation::kHvp, inputs);
  ASSERT_TRUE(problem.ok()) << problem.status();
  std::ofstream("/proc/self/clear_refs") << 5;  // the peak starts anew
  const std::int64_t before = StatusBytes("VmRSS");
  ASSERT_TRUE(backend->Run(*problem, inputs, outputs, NoInterrupt()).ok());
  EXPECT_LT(StatusBytes("VmHWM") - before, kHvpGrowthBytes);
}

}  // namespace
}  // namespace theria::conformance

#endif  // no sanitizer
