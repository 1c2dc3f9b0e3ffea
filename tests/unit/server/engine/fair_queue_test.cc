#include "server/engine/fair_queue.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace theria::server {
namespace {

class NamedJob : public Job {
 public:
  NamedJob(std::string name, Account& account, double flops, Priority priority, std::string key)
      : Job({.bytes = 1, .flops = flops}, absl::InfiniteFuture(),
            {&account, priority, std::move(key)}),
        name_(std::move(name)) {}
  const std::string& name() const { return name_; }

 private:
  void Run(absl::Duration /*queue_time*/) override {}
  void Drop(const absl::Status& /*why*/) override {}
  const std::string name_;
};

class FairQueueTest : public testing::Test {
 protected:
  Job& Push(const std::string& name, Account& account, double flops = 1e9,
            Priority priority = Priority::kNormal, const std::string& key = "") {
    jobs_.push_back(std::make_unique<NamedJob>(name, account, flops, priority, key));
    queue_.Push(*jobs_.back(), absl::UnixEpoch());
    return *jobs_.back();
  }
  std::string Pop() { return NameOf(*queue_.Pop().job); }
  static std::string NameOf(const Job& job) { return static_cast<const NamedJob&>(job).name(); }

  // The names of the next `count`.
  std::string Pop(int count) {
    std::string names;
    while (count-- > 0) names += Pop();
    return names;
  }

  Account a_{TenantId{"a"}}, b_{TenantId{"b"}}, heavy_{TenantId{"heavy"}, {.weight = 3}};
  std::vector<std::unique_ptr<NamedJob>> jobs_;
  FairQueue queue_;
};

TEST_F(FairQueueTest, OneTenantIsServedInOrder) {
  for (const char* name : {"1", "2", "3"}) Push(name, a_);
  EXPECT_EQ(Pop(3), "123");
  EXPECT_TRUE(queue_.empty());
}

TEST_F(FairQueueTest, TenantsTakeTurnsWhoeverCameFirst) {
  for (int i = 0; i < 4; ++i) Push("a", a_);
  for (int i = 0; i < 4; ++i) Push("b", b_);
  const std::string order = Pop(8);
  EXPECT_TRUE(order == "abababab" || order == "babababa") << order;
}

TEST_F(FairQueueTest, LargeJobsCostMoreTurns) {
  for (int i = 0; i < 2; ++i) Push("A", a_, 4e9);
  for (int i = 0; i < 8; ++i) Push("b", b_, 1e9);
  const std::string order = Pop(10);
  const std::size_t second = order.find('A', order.find('A') + 1);
  EXPECT_EQ(second, 5u) << order;
}

TEST_F(FairQueueTest, WeightsDivideTheServer) {
  for (int i = 0; i < 30; ++i) Push("h", heavy_);
  for (int i = 0; i < 30; ++i) Push("a", a_);
  const std::string order = Pop(20);
  EXPECT_EQ(std::count(order.begin(), order.end(), 'h'), 15) << order;
}

TEST_F(FairQueueTest, AnIdleTenantSavesUpNoClaim) {
  for (int i = 0; i < 20; ++i) Push("a", a_);
  EXPECT_EQ(Pop(10), "aaaaaaaaaa");
  for (int i = 0; i < 10; ++i) Push("b", b_);
  // The last job of a started at the queue's virtual time, so b is one job behind.
  const std::string order = Pop(10);
  EXPECT_NEAR(std::count(order.begin(), order.end(), 'b'), 5, 1) << order;
}

TEST_F(FairQueueTest, PrioritiesRankWithinATenantOnly) {
  Push("l", a_, 1e9, Priority::kLow);
  Push("n", a_, 1e9, Priority::kNormal);
  Push("h", a_, 1e9, Priority::kHigh);
  Push("x", b_, 1e9, Priority::kLow);
  const std::string order = Pop(4);
  EXPECT_LT(order.find('h'), order.find('n'));
  EXPECT_LT(order.find('n'), order.find('l'));
  EXPECT_LE(order.find('x'), 1u) << order;
}

TEST_F(FairQueueTest, TakesAlikeJobsOfAllTenantsAndChargesThem) {
  Job& first = Push("1", a_, 1e6, Priority::kNormal, "key");
  Push("other", a_, 1e6, Priority::kNormal, "other");
  Push("2", b_, 1e6, Priority::kNormal, "key");
  Push("3", b_, 1e6, Priority::kNormal, "key");
  Push("none", b_, 1e6);
  queue_.Erase(first);
  const auto alike = queue_.PopAlike(first, 8);
  ASSERT_EQ(alike.size(), 2u);
  EXPECT_EQ(NameOf(*alike[0].job), "2");
  EXPECT_EQ(NameOf(*alike[1].job), "3");
  EXPECT_EQ(queue_.size(), 2u);
  EXPECT_EQ(Pop(), "other");  // b has been served twice
  EXPECT_TRUE(queue_.PopAlike(first, 8).empty());
}

TEST_F(FairQueueTest, TakesNoMoreAlikeThanAsked) {
  Job& first = Push("1", a_, 1e6, Priority::kNormal, "key");
  for (int i = 0; i < 5; ++i) Push("2", a_, 1e6, Priority::kNormal, "key");
  EXPECT_EQ(queue_.PopAlike(first, 3).size(), 3u);
  EXPECT_TRUE(queue_.PopAlike(first, 0).empty());
  EXPECT_EQ(queue_.size(), 3u);
}

TEST_F(FairQueueTest, ErasedJobsAreGone) {
  Push("1", a_);
  Job& second = Push("2", a_, 1e9, Priority::kNormal, "key");
  Push("3", a_);
  queue_.Erase(second);
  EXPECT_EQ(Pop(2), "13");
}

TEST_F(FairQueueTest, ClearTakesAll) {
  for (int i = 0; i < 3; ++i) {
    Push("a", a_, 1e9, static_cast<Priority>(i));
    Push("b", b_);
  }
  EXPECT_EQ(queue_.Clear().size(), 6u);
  EXPECT_TRUE(queue_.empty());
}

}  // namespace
}  // namespace theria::server
