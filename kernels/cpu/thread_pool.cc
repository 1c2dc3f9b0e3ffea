#include "kernels/cpu/thread_pool.h"

#include <algorithm>

namespace theria::cpu {

bool ThreadPool::Seat::ShouldLeave() {
  if (!is_helper_ || left_) return left_;
  // Only as many leave as are too many, however many ask at once.
  int computing = pool_->computing_.load(std::memory_order_relaxed);
  while (computing > pool_->threads_) {
    if (pool_->computing_.compare_exchange_weak(computing, computing - 1)) {
      left_ = true;
      break;
    }
  }
  return left_;
}

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  for (int i = 1; i < threads; ++i) helpers_.emplace_back([this] { Help(); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  work_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::Run(int max_helpers, const Body& body) {
  computing_.fetch_add(1);
  Call call{&body, std::min(max_helpers, threads_ - 1)};
  const bool shared = call.open_places > 0;
  if (shared) {
    {
      const std::lock_guard lock(mutex_);
      calls_.push_back(&call);
    }
    work_.notify_all();
  }
  Seat seat(this, /*is_helper=*/false);
  body(seat);
  computing_.fetch_sub(1);
  if (shared) {
    std::unique_lock lock(mutex_);
    call.closed = true;
    calls_.remove(&call);
    helper_out_.wait(lock, [&] { return call.helpers == 0; });
  }
  if (threads_ > 1) {
    // The core is free for a helper of another call.
    const std::lock_guard lock(mutex_);
    if (!calls_.empty()) work_.notify_one();
  }
}

void ThreadPool::Help() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock,
               [this] { return ending_ || (!calls_.empty() && computing_.load() < threads_); });
    if (ending_) return;

    Call* const call = calls_.front();
    calls_.pop_front();
    ++call->helpers;
    // To the back of the line, so that helpers spread over the calls.
    if (--call->open_places > 0) calls_.push_back(call);
    computing_.fetch_add(1);
    Seat seat(this, /*is_helper=*/true);
    lock.unlock();
    (*call->body)(seat);
    lock.lock();
    if (!seat.left_) {
      computing_.fetch_sub(1);
      call->closed = true;
      calls_.remove(call);
    } else if (call->open_places++ == 0 && !call->closed) {
      calls_.push_back(call);  // a helper may take the place again later
    }
    --call->helpers;
    helper_out_.notify_all();
  }
}

}  // namespace theria::cpu
