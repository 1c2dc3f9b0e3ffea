#include "server/planted_fault.h"

#include <utility>

namespace theria::server {

PlantedFault::PlantedFault(std::unique_ptr<Backend> backend, std::int64_t good_runs,
                           std::function<absl::Status()> plant)
    : backend_(std::move(backend)), plant_(std::move(plant)), runs_left_(good_runs) {}

absl::Status PlantedFault::health() const {
  if (plant_ == nullptr && runs_left_.load() < 0) return absl::InternalError("a planted fault");
  return backend_->health();
}

absl::StatusOr<ComputeReport> PlantedFault::Run(const AttentionProblem& problem,
                                                const AttentionInputs& inputs,
                                                const AttentionOutputs& outputs,
                                                const Interrupt& interrupt) {
  const std::int64_t left = runs_left_.fetch_sub(1);
  if (left == 0 && plant_ != nullptr) {
    if (absl::Status planted = plant_(); !planted.ok()) return planted;
  }
  if (left <= 0 && plant_ == nullptr) return health();
  return backend_->Run(problem, inputs, outputs, interrupt);
}

}  // namespace theria::server
