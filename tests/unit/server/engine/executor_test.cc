#include "server/engine/executor.h"

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "server/engine/retry_after.h"
#include "tests/unit/server/event.h"

namespace theria::server {
namespace {

constexpr double kManyFlops = 1e12;  // never inline
constexpr absl::Duration kLong = absl::Seconds(60);
// Until a deadline that comes after the submission, however slow the machine.
constexpr absl::Duration kSoon = absl::Seconds(1);

// Runs until it may end or is interrupted, and tells what became of it.
class TestJob : public Job {
 public:
  explicit TestJob(Demand demand = {.bytes = 1, .flops = kManyFlops},
                   absl::Time deadline = absl::InfiniteFuture())
      : Job(demand, deadline) {}

  void LetEnd() { may_end_.Notify(); }
  void AwaitStart() { started_.Wait(); }

  // OK if it ran to its end, else why not. Waits for that.
  absl::Status result() {
    EXPECT_TRUE(done_.WaitFor(absl::ToChronoMilliseconds(kLong)));
    return result_;
  }
  bool is_done() const { return done_.HasHappened(); }
  bool was_started() const { return started_.HasHappened(); }
  std::optional<std::thread::id> thread() const { return thread_; }

 private:
  void Run(absl::Duration queue_time) override {
    EXPECT_GE(queue_time, absl::ZeroDuration());
    thread_ = std::this_thread::get_id();
    started_.Notify();
    while (!may_end_.WaitFor(std::chrono::milliseconds(1))) {
      if (result_ = Check(); !result_.ok()) break;
    }
    done_.Notify();
  }
  void Drop(const absl::Status& why) override {
    result_ = why;
    done_.Notify();
  }

  Event started_, may_end_, done_;
  absl::Status result_;
  std::optional<std::thread::id> thread_;
};

class ExecutorTest : public testing::Test {
 protected:
  ~ExecutorTest() override {
    // Every test leaves an executor without accepted work.
    if (executor_ != nullptr) {
      EXPECT_TRUE(executor_->Drain(absl::Now() + kLong));
      EXPECT_EQ(executor_->load().accepted_bytes, 0u);
    }
  }

  Executor& Make(Executor::Options options) {
    executor_ = std::make_unique<Executor>(options, metrics_);
    return *executor_;
  }

  MetricRegistry registry_;
  ComputeMetrics metrics_{registry_};
  std::unique_ptr<Executor> executor_;
};

TEST_F(ExecutorTest, RunsOnAThreadOfItsOwn) {
  Executor& executor = Make({.slots = 1});
  TestJob job;
  ASSERT_TRUE(executor.Submit(job).ok());
  job.LetEnd();
  EXPECT_TRUE(job.result().ok());
  EXPECT_NE(job.thread(), std::this_thread::get_id());
}

TEST_F(ExecutorTest, RunsSmallJobsOnTheCallersThreadWhereASlotIsFree) {
  Executor& executor = Make({.slots = 1, .max_inline_flops = 10});
  TestJob job({.bytes = 1, .flops = 10});
  job.LetEnd();
  ASSERT_TRUE(executor.Submit(job).ok());
  EXPECT_TRUE(job.is_done());
  EXPECT_EQ(job.thread(), std::this_thread::get_id());
}

TEST_F(ExecutorTest, QueuesSmallJobsWhereNoSlotIsFree) {
  Executor& executor = Make({.slots = 1, .max_inline_flops = 10});
  TestJob large;
  ASSERT_TRUE(executor.Submit(large).ok());
  large.AwaitStart();
  TestJob small({.bytes = 1, .flops = 1});
  small.LetEnd();
  ASSERT_TRUE(executor.Submit(small).ok());
  EXPECT_FALSE(small.is_done());
  EXPECT_EQ(executor.load().queued, 1u);
  EXPECT_EQ(executor.load().running, 1u);
  large.LetEnd();
  EXPECT_TRUE(small.result().ok());
  EXPECT_NE(small.thread(), std::this_thread::get_id());
}

TEST_F(ExecutorTest, RunsInOrderOfAcceptance) {
  Executor& executor = Make({.slots = 1});
  TestJob first, second, third;
  ASSERT_TRUE(executor.Submit(first).ok());
  ASSERT_TRUE(executor.Submit(second).ok());
  ASSERT_TRUE(executor.Submit(third).ok());
  first.AwaitStart();
  first.LetEnd();
  second.AwaitStart();
  EXPECT_FALSE(third.was_started());
  second.LetEnd();
  third.AwaitStart();
  third.LetEnd();
  EXPECT_TRUE(third.result().ok());
}

TEST_F(ExecutorTest, RunsAsManyJobsAtOnceAsThereAreSlots) {
  Executor& executor = Make({.slots = 3});
  TestJob jobs[3];
  for (TestJob& job : jobs) ASSERT_TRUE(executor.Submit(job).ok());
  for (TestJob& job : jobs) job.AwaitStart();
  EXPECT_EQ(executor.load().running, 3u);
  for (TestJob& job : jobs) job.LetEnd();
  for (TestJob& job : jobs) EXPECT_TRUE(job.result().ok());
}

TEST_F(ExecutorTest, RefusesMoreJobsThanItMayAccept) {
  Executor& executor = Make({.slots = 1, .max_accepted_jobs = 2});
  TestJob running, waiting, refused;
  ASSERT_TRUE(executor.Submit(running).ok());
  ASSERT_TRUE(executor.Submit(waiting).ok());
  const absl::Status status = executor.Submit(refused);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(RetryAfterOf(status).value_or(absl::ZeroDuration()), absl::ZeroDuration());
  EXPECT_FALSE(refused.is_done());
  running.LetEnd();
  waiting.LetEnd();
  EXPECT_TRUE(waiting.result().ok());
}

TEST_F(ExecutorTest, RefusesMoreBytesThanItMayAcceptAndTakesThemOnceFreed) {
  Executor& executor = Make({.slots = 1, .max_accepted_bytes = 100});
  TestJob running({.bytes = 60, .flops = kManyFlops});
  ASSERT_TRUE(executor.Submit(running).ok());
  TestJob too_much({.bytes = 41, .flops = kManyFlops});
  const absl::Status status = executor.Submit(too_much);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(RetryAfterOf(status).has_value());
  TestJob fits({.bytes = 40, .flops = kManyFlops});
  EXPECT_TRUE(executor.Submit(fits).ok());
  EXPECT_EQ(executor.load().accepted_bytes, 100u);
  running.LetEnd();
  fits.LetEnd();
  EXPECT_TRUE(fits.result().ok());
  while (executor.load().accepted_bytes != 0) absl::SleepFor(absl::Milliseconds(1));
  too_much.LetEnd();
  EXPECT_TRUE(executor.Submit(too_much).ok());
  EXPECT_TRUE(too_much.result().ok());
}

TEST_F(ExecutorTest, NoSumOfBytesOverflows) {
  Executor& executor = Make({.slots = 1, .max_accepted_bytes = 100});
  TestJob running({.bytes = 50, .flops = kManyFlops});
  ASSERT_TRUE(executor.Submit(running).ok());
  TestJob huge({.bytes = ~std::size_t{0}, .flops = kManyFlops});
  EXPECT_EQ(executor.Submit(huge).code(), absl::StatusCode::kResourceExhausted);
  running.LetEnd();
  EXPECT_TRUE(running.result().ok());
}

TEST_F(ExecutorTest, CancelInQueueDropsAtOnceAndFreesItsBytes) {
  Executor& executor = Make({.slots = 1});
  TestJob running, waiting({.bytes = 7, .flops = kManyFlops});
  ASSERT_TRUE(executor.Submit(running).ok());
  running.AwaitStart();
  ASSERT_TRUE(executor.Submit(waiting).ok());
  executor.Cancel(waiting);
  EXPECT_TRUE(waiting.is_done());
  EXPECT_EQ(waiting.result().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(waiting.was_started());
  EXPECT_EQ(executor.load().queued, 0u);
  EXPECT_EQ(executor.load().accepted_bytes, 1u);
  running.LetEnd();
  EXPECT_TRUE(running.result().ok());
}

TEST_F(ExecutorTest, CancelInRunInterrupts) {
  Executor& executor = Make({.slots = 1});
  TestJob job;
  ASSERT_TRUE(executor.Submit(job).ok());
  job.AwaitStart();
  executor.Cancel(job);
  EXPECT_EQ(job.result().code(), absl::StatusCode::kCancelled);
}

TEST_F(ExecutorTest, CancelBeforeSubmitPreventsAcceptance) {
  Executor& executor = Make({.slots = 1});
  TestJob job;
  executor.Cancel(job);
  EXPECT_EQ(executor.Submit(job).code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(job.is_done());
}

TEST_F(ExecutorTest, DeadlineInQueueDropsWithoutRunning) {
  Executor& executor = Make({.slots = 1});
  TestJob running;
  ASSERT_TRUE(executor.Submit(running).ok());
  running.AwaitStart();
  const absl::Time deadline = absl::Now() + kSoon;
  TestJob late({.bytes = 1, .flops = kManyFlops}, deadline);
  ASSERT_TRUE(executor.Submit(late).ok());
  while (absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(10));
  running.LetEnd();
  EXPECT_EQ(late.result().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(late.was_started());
}

TEST_F(ExecutorTest, DeadlineInRunInterrupts) {
  Executor& executor = Make({.slots = 1});
  TestJob late({.bytes = 1, .flops = kManyFlops}, absl::Now() + kSoon);
  ASSERT_TRUE(executor.Submit(late).ok());
  EXPECT_EQ(late.result().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ExecutorTest, PastDeadlineIsNotAccepted) {
  Executor& executor = Make({.slots = 1});
  TestJob late({.bytes = 1, .flops = 0}, absl::Now() - absl::Seconds(1));
  EXPECT_EQ(executor.Submit(late).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(late.is_done());
}

TEST_F(ExecutorTest, DrainFinishesAcceptedWorkAndRefusesNew) {
  Executor& executor = Make({.slots = 1});
  TestJob running, waiting;
  ASSERT_TRUE(executor.Submit(running).ok());
  ASSERT_TRUE(executor.Submit(waiting).ok());
  running.AwaitStart();
  std::atomic<bool> is_drained{false};
  std::thread drain([&] {
    EXPECT_TRUE(executor.Drain(absl::Now() + kLong));
    is_drained = true;
  });
  // The other thread has begun to drain once jobs are refused; those before it wait as well.
  std::deque<TestJob> others;
  absl::Status status;
  do {
    absl::SleepFor(absl::Milliseconds(1));
    others.emplace_back().LetEnd();
    status = executor.Submit(others.back());
  } while (status.ok());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(is_drained);
  running.LetEnd();
  waiting.LetEnd();
  drain.join();
  EXPECT_TRUE(running.result().ok());
  EXPECT_TRUE(waiting.result().ok());
}

TEST_F(ExecutorTest, DrainCancelsWhatIsLeftAtItsDeadline) {
  Executor& executor = Make({.slots = 1});
  TestJob running, waiting;
  ASSERT_TRUE(executor.Submit(running).ok());
  ASSERT_TRUE(executor.Submit(waiting).ok());
  running.AwaitStart();
  EXPECT_FALSE(executor.Drain(absl::Now() + absl::Milliseconds(20)));
  EXPECT_EQ(running.result().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(waiting.result().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(waiting.was_started());
}

TEST_F(ExecutorTest, CountsQueueTime) {
  Executor& executor = Make({.slots = 1});
  TestJob job;
  job.LetEnd();
  ASSERT_TRUE(executor.Submit(job).ok());
  EXPECT_TRUE(job.result().ok());
  EXPECT_NE(registry_.Text().find("theria_queue_seconds_count 1\n"), std::string::npos);
}

// A job that its owner frees as soon as it answered, as a gRPC reactor is.
class SelfFreeingJob : public Job {
 public:
  SelfFreeingJob(std::atomic<int>& answered, Demand demand)
      : Job(demand, absl::InfiniteFuture()), answered_(answered) {}

 private:
  void Run(absl::Duration) override { Answer(); }
  void Drop(const absl::Status&) override { Answer(); }
  void Answer() {
    std::atomic<int>& answered = answered_;
    delete this;
    answered.fetch_add(1);
  }
  std::atomic<int>& answered_;
};

TEST_F(ExecutorTest, AnswersEachAcceptedJobOnceUnderContention) {
  Executor& executor = Make({.slots = 2, .max_accepted_jobs = 16, .max_inline_flops = 1});
  std::atomic<int> answered{0}, accepted{0}, refused{0};
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < 2000; ++i) {
        const double flops = (i + client) % 2 == 0 ? 0.0 : kManyFlops;
        auto job = std::make_unique<SelfFreeingJob>(answered, Job::Demand{3, flops});
        if (executor.Submit(*job).ok()) {
          job.release();
          accepted.fetch_add(1);
        } else {
          refused.fetch_add(1);
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(executor.Drain(absl::Now() + kLong));
  EXPECT_EQ(answered, accepted);
  EXPECT_EQ(accepted + refused, 8000);
}

}  // namespace
}  // namespace theria::server
