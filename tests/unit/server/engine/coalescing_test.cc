// Executor: jobs that run together, and what an account may hold.

#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "server/engine/executor.h"
#include "server/engine/retry_after.h"
#include "tests/unit/server/event.h"

namespace theria::server {
namespace {

constexpr absl::Duration kLong = absl::Seconds(60);

// Tells with how many others it ran; waits for `go` first, if there is one.
class GroupJob : public Job {
 public:
  explicit GroupJob(Terms terms, Event* go = nullptr, Demand demand = {.bytes = 1, .flops = 1e6})
      : Job(demand, absl::InfiniteFuture(), std::move(terms)), go_(go) {}

  std::size_t group() {
    EXPECT_TRUE(done_.WaitFor(absl::ToChronoMilliseconds(kLong)));
    return group_;
  }
  void AwaitStart() { started_.Wait(); }

 private:
  void End(std::size_t group) {
    group_ = group;
    done_.Notify();
  }
  void Run(absl::Duration /*queue_time*/) override {
    started_.Notify();
    if (go_ != nullptr) go_->Wait();
    End(1);
  }
  void RunWith(absl::Span<const Companion> together) override {
    for (const Companion& companion : together) {
      static_cast<GroupJob*>(companion.job)->End(together.size());
    }
  }
  void Drop(const absl::Status& /*why*/) override { End(0); }

  Event* const go_;
  Event started_, done_;
  std::size_t group_ = 0;
};

class CoalescingTest : public testing::Test {
 protected:
  Executor& Make(Executor::Options options) {
    options.slots = 1;
    options.max_inline_flops = 0;
    executor_ = std::make_unique<Executor>(options, metrics_);
    return *executor_;
  }
  void TearDown() override { EXPECT_TRUE(executor_->Drain(absl::Now() + kLong)); }

  // Holds the slot while `keys` are submitted; the groups that they ran in.
  std::vector<std::size_t> GroupsOf(const std::vector<std::string>& keys) {
    Event go;
    GroupJob first({}, &go);
    EXPECT_TRUE(executor_->Submit(first).ok());
    first.AwaitStart();
    std::vector<std::unique_ptr<GroupJob>> jobs;
    for (const std::string& key : keys) {
      jobs.push_back(std::make_unique<GroupJob>(Job::Terms{.coalesce_key = key}));
      EXPECT_TRUE(executor_->Submit(*jobs.back()).ok());
    }
    go.Notify();
    std::vector<std::size_t> groups;
    for (const auto& job : jobs) groups.push_back(job->group());
    return groups;
  }

  MetricRegistry registry_;
  ComputeMetrics metrics_{registry_};
  Account one_{TenantId{"one"}}, two_{TenantId{"two"}};
  std::unique_ptr<Executor> executor_;
};

using Groups = std::vector<std::size_t>;

TEST_F(CoalescingTest, JobsOfEqualKeysStartTogether) {
  Make({});
  EXPECT_EQ(GroupsOf({"k", "k", "other", "k", ""}), (Groups{3, 3, 1, 3, 1}));
}

TEST_F(CoalescingTest, GroupsAreBounded) {
  Make({.max_coalesced_jobs = 2});
  EXPECT_EQ(GroupsOf({"k", "k", "k"}), (Groups{2, 2, 1}));
}

TEST_F(CoalescingTest, CanBeTurnedOff) {
  Make({.max_coalesced_jobs = 1});
  EXPECT_EQ(GroupsOf({"k", "k", "k"}), (Groups{1, 1, 1}));
}

TEST_F(CoalescingTest, LargeJobsStayAlone) {
  Make({.max_coalesced_flops = 1e5});
  EXPECT_EQ(GroupsOf({"k", "k"}), (Groups{1, 1}));
}

TEST_F(CoalescingTest, ALoneJobDoesNotWait) {
  Executor& executor = Make({.coalesce_delay = absl::Hours(1)});
  GroupJob job({.coalesce_key = "k"});
  ASSERT_TRUE(executor.Submit(job).ok());
  EXPECT_EQ(job.group(), 1u);
}

TEST_F(CoalescingTest, WaitsForMoreNoLongerThanTheDelay) {
  Executor& executor = Make({.coalesce_delay = absl::Seconds(2)});
  Event go;
  GroupJob first({}, &go);
  ASSERT_TRUE(executor.Submit(first).ok());
  first.AwaitStart();
  GroupJob early({.coalesce_key = "k"}), other({.coalesce_key = "o"}), late({.coalesce_key = "k"});
  ASSERT_TRUE(executor.Submit(early).ok());
  ASSERT_TRUE(executor.Submit(other).ok());
  go.Notify();
  absl::SleepFor(absl::Milliseconds(20));
  ASSERT_TRUE(executor.Submit(late).ok());
  EXPECT_EQ(early.group(), 2u);
  EXPECT_EQ(late.group(), 2u);
  EXPECT_EQ(other.group(), 1u);
}

TEST_F(CoalescingTest, AnAccountMayHoldItsOwnLimit) {
  Executor& executor = Make({});
  one_.SetLimits({.max_queued_requests = 2, .max_queued_bytes = 100});
  Event go;
  GroupJob running({&one_}, &go), waiting({&one_}), third({&one_}), others({&two_});
  ASSERT_TRUE(executor.Submit(running).ok());
  ASSERT_TRUE(executor.Submit(waiting).ok());
  const absl::Status refused = executor.Submit(third);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(RetryAfterOf(refused).has_value());
  EXPECT_EQ(one_.refusals(Refusal::kQueue), 1u);
  EXPECT_TRUE(executor.Submit(others).ok());
  go.Notify();
  EXPECT_EQ(others.group(), 1u);
  EXPECT_EQ(waiting.group(), 1u);
  EXPECT_TRUE(executor.Drain(absl::Now() + kLong));
  EXPECT_EQ(executor.usage(one_).jobs, 0u);
  EXPECT_EQ(executor.usage(one_).bytes, 0u);
}

TEST_F(CoalescingTest, AnAccountMayHoldItsBytes) {
  Executor& executor = Make({});
  one_.SetLimits({.max_queued_bytes = 100});
  Event go;
  GroupJob running({&one_}, &go, {.bytes = 60, .flops = 1e6});
  GroupJob more({&one_}, nullptr, {.bytes = 41, .flops = 1e6});
  ASSERT_TRUE(executor.Submit(running).ok());
  EXPECT_EQ(executor.Submit(more).code(), absl::StatusCode::kResourceExhausted);
  go.Notify();
  EXPECT_EQ(running.group(), 1u);
}

TEST_F(CoalescingTest, NoAccountTakesTheLastPlaces) {
  Executor& executor = Make({.max_accepted_jobs = 10, .max_share_of_free = 4});
  Event go;
  std::vector<std::unique_ptr<GroupJob>> greedy;
  int accepted = 0;
  for (int i = 0; i < 10; ++i) {
    greedy.push_back(std::make_unique<GroupJob>(Job::Terms{&one_}, &go));
    if (executor.Submit(*greedy.back()).ok()) {
      ++accepted;
    } else {
      greedy.pop_back();
    }
  }
  EXPECT_EQ(accepted, 8);
  GroupJob modest({&two_});
  EXPECT_TRUE(executor.Submit(modest).ok());
  go.Notify();
  EXPECT_EQ(modest.group(), 1u);
  for (const auto& job : greedy) EXPECT_EQ(job->group(), 1u);
}

TEST_F(CoalescingTest, RefusalsTellNothingOfOtherAccounts) {
  Executor& executor = Make({.max_accepted_jobs = 1});
  Event go;
  GroupJob running({&one_}, &go, {.bytes = 4321, .flops = 1e6}), refused({&two_});
  ASSERT_TRUE(executor.Submit(running).ok());
  const std::string message(executor.Submit(refused).message());
  EXPECT_EQ(message.find("4321"), std::string::npos);
  EXPECT_EQ(two_.refusals(Refusal::kServerFull), 1u);
  go.Notify();
  EXPECT_EQ(running.group(), 1u);
}

}  // namespace
}  // namespace theria::server
