#ifndef THERIA_TESTS_UNIT_SERVER_RPC_FAKE_BACKEND_H_
#define THERIA_TESTS_UNIT_SERVER_RPC_FAKE_BACKEND_H_

#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/api/backend.h"
#include "tests/unit/server/event.h"

// A backend that computes nothing: each output is filled with the bytes 1, 2, 3 ... in the order of
// kOutputFields. It can fail, and it can run until it is interrupted.

namespace theria::server {

class FakeBackend : public Backend {
 public:
  std::string_view name() const override { return "fake"; }
  std::vector<DeviceInfo> Devices() const override { return {{"cpu", "a fake", 1024, "none"}}; }
  std::vector<KernelSupport> Kernels() const override {
    return {{Operation::kHvp, Implementation::kReference, DType::kBFloat16, 1, 512, 1}};
  }
  Memory& memory() override { return HostMemory(); }

  absl::Status Supports(const AttentionProblem&, const AttentionOptions& options) const override {
    if (options.implementation != Implementation::kFused) return absl::OkStatus();
    return absl::UnimplementedError("only reference kernels here");
  }

  absl::StatusOr<ComputeReport> Run(const AttentionProblem& problem, const AttentionInputs& inputs,
                                    const AttentionOutputs& outputs,
                                    const Interrupt& interrupt) override {
    runs.fetch_add(1);
    last_problem = problem;
    last_inputs = inputs;
    if (blocks) {
      blocked.Notify();
      while (!unblock.WaitFor(std::chrono::milliseconds(1))) {
        if (absl::Status go_on = interrupt.Check(); !go_on.ok()) return go_on;
      }
    }
    if (!failure.ok()) return failure;
    char value = 1;
    for (const OutputField& field : kOutputFields) {
      if (const auto& view = outputs.*field.member; view.has_value()) {
        std::memset(view->data, value, view->SizeBytes());
      }
      ++value;
    }
    return ComputeReport{Implementation::kReference, "fake_kernel", "cpu", absl::Milliseconds(2)};
  }

  std::atomic<int> runs{0};
  std::atomic<bool> blocks{false};
  Event blocked, unblock;
  absl::Status failure;
  AttentionProblem last_problem;  // of the last Run
  AttentionInputs last_inputs;
};

}  // namespace theria::server

#endif  // THERIA_TESTS_UNIT_SERVER_RPC_FAKE_BACKEND_H_
