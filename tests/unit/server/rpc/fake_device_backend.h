#ifndef THERIA_TESTS_UNIT_SERVER_RPC_FAKE_DEVICE_BACKEND_H_
#define THERIA_TESTS_UNIT_SERVER_RPC_FAKE_DEVICE_BACKEND_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cpu/backend.h"
#include "tests/unit/server/fake_device.h"

// The CPU reference as the backend of a FakeDeviceMemory: it reads and writes that alone, and fails
// where a view lies elsewhere.

namespace theria::server {

class FakeDeviceBackend final : public Backend {
 public:
  std::string_view name() const override { return "fake"; }
  std::vector<DeviceInfo> Devices() const override { return cpu_->Devices(); }
  std::vector<KernelSupport> Kernels() const override { return cpu_->Kernels(); }
  Memory& memory() override { return memory_; }
  FakeDeviceMemory& device() { return memory_; }
  absl::Status Supports(const AttentionProblem& problem,
                        const AttentionOptions& options) const override {
    return cpu_->Supports(problem, options);
  }

  absl::StatusOr<ComputeReport> Run(const AttentionProblem& problem, const AttentionInputs& inputs,
                                    const AttentionOutputs& outputs,
                                    const Interrupt& interrupt) override {
    absl::StatusOr<Buffer> workspace = memory_.Allocate(workspace_bytes);
    if (!workspace.ok()) return workspace.status();
    AttentionInputs host_inputs = inputs;
    AttentionOutputs host_outputs = outputs;
    bool is_all_there = true;
    ForEachInput(host_inputs, [&](std::string_view, std::optional<TensorView>& view) {
      is_all_there = ToHost(view) && is_all_there;
    });
    for (const OutputField& field : kOutputFields) {
      is_all_there = ToHost(host_outputs.*field.member) && is_all_there;
    }
    if (!is_all_there) return absl::InternalError("a view that is not of the device");
    last_inputs = inputs;
    return cpu_->Run(problem, host_inputs, host_outputs, interrupt);
  }

  std::atomic<std::size_t> workspace_bytes{1};
  AttentionInputs last_inputs;  // of the last Run

 private:
  template <typename View>
  bool ToHost(std::optional<View>& view) {
    if (!view.has_value()) return true;
    const auto elements = static_cast<std::size_t>(view->SpanElements());
    view->data = memory_.HostAddress(view->data, elements * ItemSizeBytes(view->dtype));
    return view->data != nullptr;
  }

  FakeDeviceMemory memory_;
  const std::unique_ptr<Backend> cpu_ = MakeCpuBackend({.threads = 1});
};

}  // namespace theria::server

#endif  // THERIA_TESTS_UNIT_SERVER_RPC_FAKE_DEVICE_BACKEND_H_
