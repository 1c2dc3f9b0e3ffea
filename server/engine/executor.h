#ifndef THERIA_SERVER_ENGINE_EXECUTOR_H_
#define THERIA_SERVER_ENGINE_EXECUTOR_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/engine/account.h"
#include "server/engine/fair_queue.h"
#include "server/engine/job.h"
#include "server/telemetry/compute_metrics.h"

// Bounded execution of jobs, in the order of a FairQueue, on a fixed number of slots.
//
// Admission counts every job and its bytes from Submit to the end of Run; beyond the limits of the
// executor or of the job's account it refuses at once, so that memory and waiting stay bounded. A
// job that starts takes along others that may be computed with it. A job leaves the queue without
// running when it is cancelled or past its deadline. A job that is small enough runs on the
// caller's thread if a slot is free and nobody waits: a hand-over between threads would cost more
// than its work.
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
    // No account may hold more than this many times what is left free, so that there always is
    // room for the next one (dynamic thresholds: Choudhury and Hahne, 1998). 0: no such limit.
    double max_share_of_free = 0.0;

    // Jobs of one coalesce_key that start together, of at most so much arithmetic each.
    std::size_t max_coalesced_jobs = 16;  // 1: none
    double max_coalesced_flops = 1 << 26;
    // How long a job that finds fewer waits for more, counted from its acceptance, while other
    // jobs are accepted; one that is alone never waits.
    absl::Duration coalesce_delay = absl::ZeroDuration();
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
  bool Drain(absl::Time deadline);  // of SteadyNow()

  Load load() const;

  // What the jobs of this account hold now.
  struct Usage {
    std::size_t jobs = 0;
    std::size_t bytes = 0;
  };
  Usage usage(const Account& account) const;

 private:
  using Waiting = FairQueue::Waiting;

  void Work();
  void RunJobs(absl::Span<const Waiting> jobs);
  void DropJob(Job& job, const absl::Status& why);

  // REQUIRES of these: mutex_ held.
  absl::Status Admit(const Job& job) const;
  absl::Status AdmitToAccount(const Job& job) const;
  std::vector<Waiting> Next(std::unique_lock<std::mutex>& lock);
  void Release(const Account& account, const Job::Demand& demand);
  absl::Duration RetryDelay() const;
  bool has_free_slot() const { return running_ < static_cast<std::size_t>(options_.slots); }

  const Options options_;
  ComputeMetrics& metrics_;

  mutable std::mutex mutex_;
  std::condition_variable work_;     // a job waits and a slot is free, or the executor ends
  std::condition_variable idle_;     // accepted_ became 0
  std::condition_variable arrived_;  // a job came while a worker waits for companions
  FairQueue queue_;
  std::unordered_map<const Account*, Usage> usage_;
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
