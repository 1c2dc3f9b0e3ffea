#ifndef THERIA_SERVER_ENGINE_EXECUTOR_H_
#define THERIA_SERVER_ENGINE_EXECUTOR_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/engine/job.h"
#include "server/telemetry/compute_metrics.h"

// Bounded execution of jobs, in order of acceptance, on a fixed number of slots.
//
// Admission counts every job and its bytes from Submit to the end of Run; beyond the limits it
// refuses at once, so that memory and waiting stay bounded. A job leaves the queue without running
// when it is cancelled or past its deadline. A job that is small enough runs on the caller's thread
// if a slot is free and nobody waits: a hand-over between threads would cost more than its work.
//
// Thread-safe. Jobs may call Submit and Cancel, but not Drain.

namespace theria::server {

class Executor {
 public:
  struct Options {
    int slots = 2;  // jobs that run at once
    std::size_t max_accepted_jobs = 256;
    std::size_t max_accepted_bytes = std::size_t{1} << 30;
    double max_inline_flops = 1 << 20;  // about a millisecond of the slowest backend
  };

  struct Load {
    std::size_t queued = 0;
    std::size_t running = 0;
    std::size_t accepted_bytes = 0;
  };

  // `metrics` must outlive the executor.
  Executor(const Options& options, ComputeMetrics& metrics);
  ~Executor();  // REQUIRES: no job is accepted and not yet done
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  const Options& options() const { return options_; }

  // On OK, `job` runs or is dropped exactly once, possibly before Submit returns; on an error,
  // neither. Errors: RESOURCE_EXHAUSTED with RetryAfterOf; UNAVAILABLE once Drain was called;
  // CANCELLED, DEADLINE_EXCEEDED.
  absl::Status Submit(Job& job);

  // Drops `job` if it waits, interrupts it if it runs, else prevents its acceptance.
  // REQUIRES: the job is alive for the time of the call.
  void Cancel(Job& job);

  // Refuses new jobs from now on and waits until the accepted ones are done. At `deadline`, cancels
  // those that are left and waits for their end, which their Interrupt brings about soon.
  // Returns whether none had to be cancelled.
  bool Drain(absl::Time deadline);

  Load load() const;

 private:
  void Work();
  void RunJob(Job& job, absl::Time accepted);
  void DropJob(Job& job, const absl::Status& why);

  // REQUIRES of these: mutex_ held.
  absl::Status Admit(const Job::Demand& demand) const;
  void Release(const Job::Demand& demand);
  absl::Duration RetryDelay() const;
  bool has_free_slot() const { return running_ < static_cast<std::size_t>(options_.slots); }

  const Options options_;
  ComputeMetrics& metrics_;

  mutable std::mutex mutex_;
  std::condition_variable work_;  // a job waits and a slot is free, or the executor ends
  std::condition_variable idle_;  // accepted_ became 0
  std::list<Job::Queued> queue_;
  std::size_t running_ = 0;
  std::size_t accepted_ = 0;
  std::size_t accepted_bytes_ = 0;
  absl::Duration typical_run_;  // moving average
  bool is_draining_ = false;
  bool is_ending_ = false;
  std::atomic<bool> must_stop_{false};  // read by Job::Check
  std::vector<std::thread> threads_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_ENGINE_EXECUTOR_H_
