#include "server/engine/account.h"

#include "gtest/gtest.h"
#include "server/engine/retry_after.h"

namespace theria::server {
namespace {

class AccountTest : public testing::Test {
 protected:
  Account Make(double rate, double burst) {
    return Account({"tenant"}, {.requests_per_second = rate, .burst_requests = burst},
                   [this] { return now_; });
  }
  absl::Duration now_ = absl::Hours(5);
};

TEST_F(AccountTest, WithoutARateTakesAll) {
  Account account = Make(0, 1);
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(account.TakeRequest().ok());
  EXPECT_EQ(account.requests(), 1000u);
}

TEST_F(AccountTest, TakesABurstAndThenTheRate) {
  Account account = Make(10, 3);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(account.TakeRequest().ok());
  const absl::Status refused = account.TakeRequest();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(RetryAfterOf(refused), absl::Milliseconds(100));
  EXPECT_EQ(account.refusals(Refusal::kRate), 1u);
  now_ += absl::Milliseconds(99);
  EXPECT_FALSE(account.TakeRequest().ok());
  now_ += absl::Milliseconds(2);
  EXPECT_TRUE(account.TakeRequest().ok());
  EXPECT_FALSE(account.TakeRequest().ok());
}

TEST_F(AccountTest, APauseSavesUpNoMoreThanABurst) {
  Account account = Make(10, 3);
  now_ += absl::Hours(1);
  int taken = 0;
  while (account.TakeRequest().ok()) ++taken;
  EXPECT_EQ(taken, 3);
}

TEST_F(AccountTest, NewLimitsKeepWhatIsUsedUp) {
  Account account = Make(10, 3);
  while (account.TakeRequest().ok()) {
  }
  account.SetLimits({.requests_per_second = 100, .burst_requests = 50});
  EXPECT_FALSE(account.TakeRequest().ok());
  now_ += absl::Milliseconds(10);
  EXPECT_TRUE(account.TakeRequest().ok());
}

TEST_F(AccountTest, AClockThatStandsOrGoesBackGivesNothing) {
  Account account = Make(10, 1);
  EXPECT_TRUE(account.TakeRequest().ok());
  now_ -= absl::Hours(2);
  EXPECT_FALSE(account.TakeRequest().ok());
  now_ += absl::Milliseconds(101);
  EXPECT_TRUE(account.TakeRequest().ok());
}

}  // namespace
}  // namespace theria::server
