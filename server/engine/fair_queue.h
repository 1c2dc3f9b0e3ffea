#ifndef THERIA_SERVER_ENGINE_FAIR_QUEUE_H_
#define THERIA_SERVER_ENGINE_FAIR_QUEUE_H_

#include <array>
#include <cstddef>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/time/time.h"
#include "server/engine/job.h"

// The jobs that wait, in the order in which they should run: tenants share the slots by their
// weights, whatever each of them queues; jobs of one tenant run by priority, then in order of
// acceptance.
//
// Start-time fair queueing (Goyal, Vin and Cheng, 1996): each tenant has a virtual time, which
// advances by cost / weight with every job that it starts; the tenant that is furthest behind is
// next. One that was idle starts at the queue's own virtual time, so that nobody saves up a claim.
//
// Not thread-safe: the executor's mutex guards it.

namespace theria::server {

class FairQueue {
 public:
  using Waiting = Job::Queued;

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }

  void Push(Job& job, absl::Time accepted);

  // Takes the next job and charges its tenant. REQUIRES: !empty().
  Waiting Pop();

  // Takes up to `max_jobs` others, in order of acceptance, that may be computed together with
  // `job`, and charges their tenants.
  std::vector<Waiting> PopAlike(const Job& job, std::size_t max_jobs);

  // Takes `job` out without a charge. REQUIRES: it waits.
  void Erase(Job& job);

  // Charges the tenant of a job that runs without having waited.
  void Charge(const Job& job);

  // Takes out all, in no particular order.
  std::vector<Waiting> Clear();

 private:
  struct Flow {
    std::array<std::list<Waiting>, kPriorities> jobs;
    std::size_t size = 0;
    double virtual_time = 0.0;
  };

  Flow& FlowOf(const Job& job);
  Waiting Take(Job& job);
  void Charge(Flow& flow, const Job& job);

  std::unordered_map<const Account*, Flow> flows_;          // of every account that ever came
  std::unordered_map<const Account*, Flow*> active_;        // of those with jobs
  std::unordered_map<std::string, std::list<Job*>> alike_;  // by Job::coalesce_key
  double virtual_time_ = 0.0;
  std::size_t size_ = 0;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_ENGINE_FAIR_QUEUE_H_
