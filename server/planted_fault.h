#ifndef THERIA_SERVER_PLANTED_FAULT_H_
#define THERIA_SERVER_PLANTED_FAULT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "kernels/api/backend.h"

// A backend whose device faults on purpose, so that tests see what the server makes of it. Thread-
// safe.

namespace theria::server {

class PlantedFault final : public Backend {
 public:
  // Passes `good_runs` runs on to `backend`. Before the next one it calls `plant`, which shall make
  // `backend` itself fail for good; without `plant`, this fails in its stead.
  PlantedFault(std::unique_ptr<Backend> backend, std::int64_t good_runs,
               std::function<absl::Status()> plant);

  std::string_view name() const override { return backend_->name(); }
  std::vector<DeviceInfo> Devices() const override { return backend_->Devices(); }
  std::vector<KernelSupport> Kernels() const override { return backend_->Kernels(); }
  Memory& memory() override { return backend_->memory(); }
  Memory& spill_memory() override { return backend_->spill_memory(); }
  absl::Status Supports(const AttentionProblem& problem,
                        const AttentionOptions& options) const override {
    return backend_->Supports(problem, options);
  }

  absl::Status health() const override;
  absl::StatusOr<ComputeReport> Run(const AttentionProblem& problem, const AttentionInputs& inputs,
                                    const AttentionOutputs& outputs,
                                    const Interrupt& interrupt) override;

 private:
  const std::unique_ptr<Backend> backend_;
  const std::function<absl::Status()> plant_;
  std::atomic<std::int64_t> runs_left_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_PLANTED_FAULT_H_
