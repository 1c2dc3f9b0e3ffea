#ifndef THERIA_KERNELS_CPU_RUN_STATE_H_
#define THERIA_KERNELS_CPU_RUN_STATE_H_

#include <atomic>
#include <mutex>

#include "absl/status/status.h"
#include "kernels/api/backend.h"

// Whether the threads of one run go on, and why not. Thread-safe.

namespace theria::cpu {

class RunState {
 public:
  // `interrupt` must outlive this.
  explicit RunState(const Interrupt& interrupt) : interrupt_(interrupt) {}

  // Asks the interrupt too; once false, always false.
  bool Continue();

  // Stops all threads of the run; the first error is kept. REQUIRES: !error.ok().
  void Stop(const absl::Status& error);

  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }
  absl::Status status() const;

 private:
  const Interrupt& interrupt_;
  std::atomic<bool> stopped_{false};
  mutable std::mutex mutex_;
  absl::Status status_;
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_RUN_STATE_H_
