#ifndef THERIA_SERVER_ENGINE_JOB_H_
#define THERIA_SERVER_ENGINE_JOB_H_

#include <atomic>
#include <cstddef>
#include <list>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/api/backend.h"

// One piece of work for the Executor, and the Interrupt that a backend polls while it runs.
//
// The owner keeps the job alive until exactly one of Run and Drop was called, and may destroy it
// within that call, once it answered: the executor does not touch it any more. Check is
// thread-safe.

namespace theria::server {

class Job : public Interrupt {
 public:
  // What admission counts.
  struct Demand {
    std::size_t bytes = 0;  // of inputs and outputs, repeated elements counted each time
    double flops = 0.0;
  };

  Job(Demand demand, absl::Time deadline) : demand_(demand), deadline_(deadline) {}

  const Demand& demand() const { return demand_; }
  absl::Time deadline() const { return deadline_; }

  // DEADLINE_EXCEEDED past the deadline, CANCELLED after Executor::Cancel, UNAVAILABLE when the
  // executor was drained and could not wait any longer.
  absl::Status Check() const final;

 private:
  friend class Executor;
  struct Queued {
    Job* job;
    absl::Time accepted;
  };

  // Computes and answers. Called once, on any thread, `queue_time` after acceptance.
  virtual void Run(absl::Duration queue_time) = 0;

  // Answers with `why`; nothing was or will be computed.
  virtual void Drop(const absl::Status& why) = 0;

  const Demand demand_;
  const absl::Time deadline_;
  std::atomic<bool> is_cancelled_{false};

  // Set by Submit.
  const std::atomic<bool>* must_stop_ = nullptr;  // the executor's

  // Guarded by the executor's mutex.
  bool is_queued_ = false;
  std::list<Queued>::iterator position_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_ENGINE_JOB_H_
