#include "kernels/cpu/run_state.h"

namespace theria::cpu {

bool RunState::Continue() {
  if (stopped()) return false;
  const absl::Status status = interrupt_.Check();
  if (!status.ok()) Stop(status);
  return status.ok();
}

void RunState::Stop(const absl::Status& error) {
  const std::lock_guard lock(mutex_);
  if (status_.ok()) status_ = error;
  stopped_.store(true, std::memory_order_relaxed);
}

absl::Status RunState::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

}  // namespace theria::cpu
