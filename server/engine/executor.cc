#include "server/engine/executor.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/api/message.h"
#include "server/engine/retry_after.h"

namespace theria::server {
namespace {

constexpr absl::Duration kMinRetryDelay = absl::Milliseconds(20);
constexpr absl::Duration kMaxRetryDelay = absl::Seconds(10);

}  // namespace

absl::Status Job::Check() const {
  // gRPC cancels a call at its deadline; the deadline is then the reason worth telling.
  if (absl::Now() >= deadline_) {
    return absl::DeadlineExceededError("the deadline passed before the result was ready");
  }
  if (is_cancelled_.load(std::memory_order_relaxed)) {
    return absl::CancelledError("the call was cancelled");
  }
  if (must_stop_ != nullptr && must_stop_->load(std::memory_order_relaxed)) {
    return absl::UnavailableError("the server ended before the result was ready");
  }
  return absl::OkStatus();
}

Executor::Executor(const Options& options, ComputeMetrics& metrics)
    : options_(options), metrics_(metrics) {
  threads_.reserve(static_cast<std::size_t>(options.slots));
  for (int i = 0; i < options.slots; ++i) threads_.emplace_back([this] { Work(); });
}

Executor::~Executor() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status Executor::Submit(Job& job) {
  const Job::Demand demand = job.demand();
  const absl::Time now = absl::Now();
  {
    const std::lock_guard lock(mutex_);
    if (absl::Status admitted = Admit(demand); !admitted.ok()) return admitted;
    if (absl::Status alive = job.Check(); !alive.ok()) return alive;
    job.must_stop_ = &must_stop_;
    ++accepted_;
    accepted_bytes_ += demand.bytes;
    if (!queue_.empty() || !has_free_slot() || demand.flops > options_.max_inline_flops) {
      job.position_ = queue_.insert(queue_.end(), {&job, now});
      job.is_queued_ = true;
      work_.notify_one();
      return absl::OkStatus();
    }
    ++running_;
  }
  RunJob(job, now);
  return absl::OkStatus();
}

absl::Status Executor::Admit(const Job::Demand& demand) const {
  if (is_draining_) return absl::UnavailableError("the server drains; retry on another server");
  if (accepted_ >= options_.max_accepted_jobs) {
    return ExhaustedRetryAfter(
        Message("the queue is full: ", accepted_, " requests are accepted already"), RetryDelay());
  }
  if (demand.bytes > options_.max_accepted_bytes - accepted_bytes_) {
    return ExhaustedRetryAfter(
        Message("the request needs ", demand.bytes, " bytes; accepted requests hold ",
                accepted_bytes_, " of ", options_.max_accepted_bytes),
        RetryDelay());
  }
  return absl::OkStatus();
}

void Executor::Cancel(Job& job) {
  {
    const std::lock_guard lock(mutex_);
    job.is_cancelled_.store(true, std::memory_order_relaxed);
    if (!job.is_queued_) return;
    job.is_queued_ = false;
    queue_.erase(job.position_);
  }
  DropJob(job, job.Check());
}

bool Executor::Drain(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  is_draining_ = true;
  const auto is_idle = [this] { return accepted_ == 0; };
  if (idle_.wait_until(lock, absl::ToChronoTime(deadline), is_idle)) return true;

  must_stop_.store(true, std::memory_order_relaxed);
  const std::list<Job::Queued> waiting = std::exchange(queue_, {});
  for (const Job::Queued& queued : waiting) queued.job->is_queued_ = false;
  lock.unlock();
  for (const Job::Queued& queued : waiting) DropJob(*queued.job, queued.job->Check());
  lock.lock();
  idle_.wait(lock, is_idle);
  return false;
}

Executor::Load Executor::load() const {
  const std::lock_guard lock(mutex_);
  return {queue_.size(), running_, accepted_bytes_};
}

void Executor::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return is_ending_ || (!queue_.empty() && has_free_slot()); });
    if (queue_.empty()) return;
    const Job::Queued next = queue_.front();
    queue_.pop_front();
    next.job->is_queued_ = false;
    ++running_;
    lock.unlock();
    RunJob(*next.job, next.accepted);
    lock.lock();
  }
}

void Executor::RunJob(Job& job, absl::Time accepted) {
  const Job::Demand demand = job.demand();
  const absl::Time start = absl::Now();
  const absl::Duration queue_time = std::max(start - accepted, absl::ZeroDuration());
  metrics_.ObserveQueueTime(queue_time);
  if (absl::Status alive = job.Check(); alive.ok()) {
    job.Run(queue_time);
  } else {
    job.Drop(alive);
  }
  const absl::Duration run_time = absl::Now() - start;
  {
    const std::lock_guard lock(mutex_);
    --running_;
    typical_run_ += (run_time - typical_run_) / 8;
    Release(demand);
  }
}

void Executor::DropJob(Job& job, const absl::Status& why) {
  const Job::Demand demand = job.demand();
  job.Drop(why);
  const std::lock_guard lock(mutex_);
  Release(demand);
}

void Executor::Release(const Job::Demand& demand) {
  accepted_bytes_ -= demand.bytes;
  if (--accepted_ == 0) idle_.notify_all();
  if (!queue_.empty()) work_.notify_one();
}

absl::Duration Executor::RetryDelay() const {
  const absl::Duration until_a_slot_is_free =
      typical_run_ * static_cast<double>(accepted_) / options_.slots;
  return std::clamp(until_a_slot_is_free, kMinRetryDelay, kMaxRetryDelay);
}

}  // namespace theria::server
