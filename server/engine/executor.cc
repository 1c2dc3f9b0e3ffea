#include "server/engine/executor.h"

#include <algorithm>
#include <utility>

#include "kernels/api/message.h"
#include "server/cache/monotonic_clock.h"
#include "server/engine/retry_after.h"

namespace theria::server {
namespace {

constexpr absl::Duration kMinRetryDelay = absl::Milliseconds(20);
constexpr absl::Duration kMaxRetryDelay = absl::Seconds(10);

// Shared by the jobs that name no account. Never destroyed.
Account& SharedAccount() {
  static Account& account = *new Account;
  return account;
}

// A limit of an account, where 0 stands for the executor's own.
std::size_t LimitOr(std::size_t limit, std::size_t otherwise) {
  return limit == 0 ? otherwise : std::min(limit, otherwise);
}

}  // namespace

Account& Job::account() const {
  return terms_.account != nullptr ? *terms_.account : SharedAccount();
}

absl::Status Job::Check() const {
  // gRPC cancels a call at its deadline; the deadline is then the reason worth telling.
  if (SteadyNow() >= deadline_) {
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
  const absl::Time now = SteadyNow();
  {
    const std::lock_guard lock(mutex_);
    if (absl::Status admitted = Admit(job); !admitted.ok()) return admitted;
    if (absl::Status alive = job.Check(); !alive.ok()) return alive;
    job.must_stop_ = &must_stop_;
    ++accepted_;
    accepted_bytes_ += job.demand().bytes;
    Usage& usage = usage_[&job.account()];
    ++usage.jobs;
    usage.bytes += job.demand().bytes;
    if (!queue_.empty() || !has_free_slot() || job.demand().flops > options_.max_inline_flops) {
      queue_.Push(job, now);
      work_.notify_one();
      arrived_.notify_all();
      return absl::OkStatus();
    }
    queue_.Charge(job);
    ++running_;
  }
  const Waiting alone = {&job, now};
  RunJobs({&alone, 1});
  return absl::OkStatus();
}

// The messages tell an account nothing of what the others do.
absl::Status Executor::Admit(const Job& job) const {
  if (is_draining_) return absl::UnavailableError("the server drains; retry on another server");
  if (absl::Status own = AdmitToAccount(job); !own.ok()) {
    job.account().CountRefusal(Refusal::kQueue);
    return own;
  }
  const std::size_t bytes = job.demand().bytes;
  const bool is_full = accepted_ >= options_.max_accepted_jobs;
  if (is_full || bytes > options_.max_accepted_bytes - accepted_bytes_) {
    job.account().CountRefusal(Refusal::kServerFull);
    return ExhaustedRetryAfter(
        is_full ? Message("the queue is full: the server takes ", options_.max_accepted_jobs,
                          " requests at once")
                : Message("the request needs ", bytes, " bytes of the ",
                          options_.max_accepted_bytes, " for accepted requests; too few are free"),
        RetryDelay());
  }
  return absl::OkStatus();
}

absl::Status Executor::AdmitToAccount(const Job& job) const {
  const auto found = usage_.find(&job.account());
  if (found == usage_.end()) return absl::OkStatus();
  const Usage& usage = found->second;
  const AccountLimits limits = job.account().limits();
  const std::size_t max_jobs = LimitOr(limits.max_queued_requests, options_.max_accepted_jobs);
  if (limits.max_queued_requests > 0 && usage.jobs >= max_jobs) {
    return ExhaustedRetryAfter(
        Message("the tenant's queue is full: ", usage.jobs, " of its requests are accepted"),
        RetryDelay());
  }
  const std::size_t bytes = job.demand().bytes;
  const std::size_t max_bytes = LimitOr(limits.max_queued_bytes, options_.max_accepted_bytes);
  if (limits.max_queued_bytes > 0 && (usage.bytes > max_bytes || bytes > max_bytes - usage.bytes)) {
    return ExhaustedRetryAfter(Message("the request needs ", bytes, " bytes; the tenant's accepted",
                                       " requests hold ", usage.bytes, " of ", max_bytes),
                               RetryDelay());
  }
  if (options_.max_share_of_free <= 0) return absl::OkStatus();
  const auto exceeds_share = [this](std::size_t own, std::size_t used, std::size_t more,
                                    std::size_t limit) {
    const double left = static_cast<double>(limit) - static_cast<double>(used + more);
    return static_cast<double>(own) > options_.max_share_of_free * std::max(left, 0.0);
  };
  if (exceeds_share(usage.jobs, accepted_, 1, options_.max_accepted_jobs) ||
      exceeds_share(usage.bytes, accepted_bytes_, bytes, options_.max_accepted_bytes)) {
    return ExhaustedRetryAfter(Message("the tenant's ", usage.jobs, " accepted requests of ",
                                       usage.bytes, " bytes are its share of the server's queue"),
                               RetryDelay());
  }
  return absl::OkStatus();
}

void Executor::Cancel(Job& job) {
  {
    const std::lock_guard lock(mutex_);
    job.is_cancelled_.store(true, std::memory_order_relaxed);
    if (!job.is_queued_) return;
    queue_.Erase(job);
  }
  DropJob(job, job.Check());
}

bool Executor::Drain(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  is_draining_ = true;
  const auto is_idle = [this] { return accepted_ == 0; };
  if (idle_.wait_for(lock, TimeUntil(deadline), is_idle)) return true;

  must_stop_.store(true, std::memory_order_relaxed);
  const std::vector<Waiting> waiting = queue_.Clear();
  lock.unlock();
  for (const Waiting& queued : waiting) DropJob(*queued.job, queued.job->Check());
  lock.lock();
  idle_.wait(lock, is_idle);
  return false;
}

Executor::Load Executor::load() const {
  const std::lock_guard lock(mutex_);
  return {queue_.size(), running_, accepted_bytes_};
}

Executor::Usage Executor::usage(const Account& account) const {
  const std::lock_guard lock(mutex_);
  const auto found = usage_.find(&account);
  return found == usage_.end() ? Usage{} : found->second;
}

void Executor::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return is_ending_ || (!queue_.empty() && has_free_slot()); });
    if (queue_.empty()) return;
    ++running_;
    const std::vector<Waiting> jobs = Next(lock);
    lock.unlock();
    RunJobs(jobs);
    lock.lock();
  }
}

std::vector<Executor::Waiting> Executor::Next(std::unique_lock<std::mutex>& lock) {
  std::vector<Waiting> jobs = {queue_.Pop()};
  const Job& first = *jobs.front().job;
  if (first.coalesce_key().empty() || first.demand().flops > options_.max_coalesced_flops) {
    return jobs;
  }
  const absl::Time until = jobs.front().accepted + options_.coalesce_delay;
  while (true) {
    const std::vector<Waiting> alike =
        queue_.PopAlike(first, options_.max_coalesced_jobs - jobs.size());
    jobs.insert(jobs.end(), alike.begin(), alike.end());
    const bool may_more_come = jobs.size() < options_.max_coalesced_jobs &&
                               accepted_ > jobs.size() && !is_draining_ && SteadyNow() < until;
    if (!may_more_come) return jobs;
    arrived_.wait_for(lock, TimeUntil(until));
  }
}

void Executor::RunJobs(absl::Span<const Waiting> jobs) {
  struct Share {
    const Account* account;
    Job::Demand demand;
  };
  std::vector<Share> shares;
  std::vector<Job::Companion> alive;
  const absl::Time start = SteadyNow();
  for (const Waiting& waiting : jobs) {
    Job& job = *waiting.job;
    shares.push_back({&job.account(), job.demand()});
    const absl::Duration queue_time = std::max(start - waiting.accepted, absl::ZeroDuration());
    metrics_.ObserveQueueTime(queue_time);
    if (absl::Status go_on = job.Check(); go_on.ok()) {
      alive.push_back({&job, queue_time});
    } else {
      job.Drop(go_on);
    }
  }
  if (!alive.empty()) {
    metrics_.ObserveCoalesced(alive.size());
    if (alive.size() == 1) {
      alive.front().job->Run(alive.front().queue_time);
    } else {
      alive.front().job->RunWith(alive);
    }
  }
  const absl::Duration run_time = (SteadyNow() - start) / static_cast<double>(jobs.size());
  const std::lock_guard lock(mutex_);
  --running_;
  typical_run_ += (run_time - typical_run_) / 8;
  for (const Share& share : shares) Release(*share.account, share.demand);
}

void Executor::DropJob(Job& job, const absl::Status& why) {
  const Account& account = job.account();
  const Job::Demand demand = job.demand();
  job.Drop(why);
  const std::lock_guard lock(mutex_);
  Release(account, demand);
}

void Executor::Release(const Account& account, const Job::Demand& demand) {
  Usage& usage = usage_[&account];
  --usage.jobs;
  usage.bytes -= demand.bytes;
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
