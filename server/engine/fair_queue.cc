#include "server/engine/fair_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "server/engine/account.h"

namespace theria::server {
namespace {

// What a request costs beside its arithmetic, so that many empty ones are not free.
constexpr double kFlopsOfARequest = 1e5;

double CostOf(const Job& job) { return kFlopsOfARequest + job.demand().flops; }

}  // namespace

FairQueue::Flow& FairQueue::FlowOf(const Job& job) { return flows_[&job.account()]; }

void FairQueue::Push(Job& job, absl::Time accepted) {
  Flow& flow = FlowOf(job);
  if (flow.size == 0) {
    flow.virtual_time = std::max(flow.virtual_time, virtual_time_);
    active_.emplace(&job.account(), &flow);
  }
  std::list<Waiting>& line = flow.jobs[static_cast<std::size_t>(job.priority())];
  job.position_ = line.insert(line.end(), {&job, accepted});
  job.is_queued_ = true;
  if (!job.coalesce_key().empty()) {
    std::list<Job*>& alike = alike_[job.coalesce_key()];
    job.alike_position_ = alike.insert(alike.end(), &job);
  }
  ++flow.size;
  ++size_;
}

FairQueue::Waiting FairQueue::Pop() {
  const auto next = std::min_element(
      active_.begin(), active_.end(),
      [](const auto& a, const auto& b) { return a.second->virtual_time < b.second->virtual_time; });
  Flow& flow = *next->second;
  virtual_time_ = flow.virtual_time;
  const auto line = std::find_if(flow.jobs.begin(), flow.jobs.end(),
                                 [](const auto& jobs) { return !jobs.empty(); });
  Job& job = *line->front().job;
  Charge(flow, job);
  return Take(job);
}

std::vector<FairQueue::Waiting> FairQueue::PopAlike(const Job& job, std::size_t max_jobs) {
  std::vector<Waiting> taken;
  while (taken.size() < max_jobs) {
    const auto alike = alike_.find(job.coalesce_key());
    if (alike == alike_.end()) break;
    Job& companion = *alike->second.front();
    Charge(FlowOf(companion), companion);
    taken.push_back(Take(companion));
  }
  return taken;
}

void FairQueue::Erase(Job& job) { Take(job); }

void FairQueue::Charge(const Job& job) {
  Flow& flow = FlowOf(job);
  flow.virtual_time = std::max(flow.virtual_time, virtual_time_);
  Charge(flow, job);
}

std::vector<FairQueue::Waiting> FairQueue::Clear() {
  std::vector<Waiting> taken;
  while (!active_.empty()) {
    for (const auto& line : active_.begin()->second->jobs) {
      if (line.empty()) continue;
      taken.push_back(Take(*line.front().job));
      break;
    }
  }
  return taken;
}

FairQueue::Waiting FairQueue::Take(Job& job) {
  Flow& flow = FlowOf(job);
  const Waiting waiting = *job.position_;
  flow.jobs[static_cast<std::size_t>(job.priority())].erase(job.position_);
  job.is_queued_ = false;
  if (!job.coalesce_key().empty()) {
    const auto alike = alike_.find(job.coalesce_key());
    alike->second.erase(job.alike_position_);
    if (alike->second.empty()) alike_.erase(alike);
  }
  if (--flow.size == 0) active_.erase(&job.account());
  --size_;
  return waiting;
}

void FairQueue::Charge(Flow& flow, const Job& job) {
  flow.virtual_time += CostOf(job) / job.account().limits().weight;
}

}  // namespace theria::server
