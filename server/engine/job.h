#ifndef THERIA_SERVER_ENGINE_JOB_H_
#define THERIA_SERVER_ENGINE_JOB_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/api/backend.h"
#include "server/engine/account.h"

// One piece of work for the Executor, and the Interrupt that a backend polls while it runs.
//
// The owner keeps the job alive until exactly one of Run and Drop was called, and may destroy it
// within that call, once it answered: the executor does not touch it any more. Check is
// thread-safe.

namespace theria::server {

// Which of a tenant's waiting jobs run first. Tenants cannot outrank each other by it.
enum class Priority : std::uint8_t { kHigh, kNormal, kLow };
inline constexpr std::size_t kPriorities = 3;

class FairQueue;

class Job : public Interrupt {
 public:
  // What admission counts.
  struct Demand {
    std::size_t bytes = 0;  // of inputs and outputs, repeated elements counted each time
    double flops = 0.0;
  };

  // On whose account a job runs, and when it is his turn.
  struct Terms {
    Account* account = nullptr;  // null: one that all such jobs share, without limits
    Priority priority = Priority::kNormal;
    // Jobs of equal keys, not empty, may be computed by one call of RunWith.
    std::string coalesce_key;
  };

  Job(Demand demand, absl::Time deadline) : Job(demand, deadline, Terms{}) {}
  Job(Demand demand, absl::Time deadline, Terms terms)
      : demand_(demand), deadline_(deadline), terms_(std::move(terms)) {}

  const Demand& demand() const { return demand_; }
  absl::Time deadline() const { return deadline_; }
  Account& account() const;
  Priority priority() const { return terms_.priority; }
  const std::string& coalesce_key() const { return terms_.coalesce_key; }

  // DEADLINE_EXCEEDED once SteadyNow() is past the deadline, CANCELLED after Executor::Cancel,
  // UNAVAILABLE when the executor was drained and could not wait any longer.
  absl::Status Check() const final;

 protected:
  // One that runs together with others.
  struct Companion {
    Job* job;
    absl::Duration queue_time;
  };

 private:
  friend class Executor;
  friend class FairQueue;
  struct Queued {
    Job* job;
    absl::Time accepted;
  };

  // Computes and answers. Called once, on any thread, `queue_time` after acceptance.
  virtual void Run(absl::Duration queue_time) = 0;

  // Computes and answers `together`, jobs of equal keys of which this is one. Each counts as Run.
  virtual void RunWith(absl::Span<const Companion> together) {
    for (const Companion& companion : together) companion.job->Run(companion.queue_time);
  }

  // Answers with `why`; nothing was or will be computed.
  virtual void Drop(const absl::Status& why) = 0;

  const Demand demand_;
  const absl::Time deadline_;
  const Terms terms_;
  std::atomic<bool> is_cancelled_{false};

  // Set by Submit.
  const std::atomic<bool>* must_stop_ = nullptr;  // the executor's

  // Guarded by the executor's mutex; the queue's.
  bool is_queued_ = false;
  std::list<Queued>::iterator position_;
  std::list<Job*>::iterator alike_position_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_ENGINE_JOB_H_
