#include "server/cache/byte_budget.h"

#include <cstddef>
#include <limits>

#include "gtest/gtest.h"

namespace theria::server {
namespace {

TEST(ByteBudgetTest, FitsUpToItsLimit) {
  ByteBudget budget(100);
  EXPECT_TRUE(budget.Fits(100));
  EXPECT_FALSE(budget.Fits(101));
  budget.Reserve(60);
  EXPECT_EQ(budget.used_bytes(), 60);
  EXPECT_TRUE(budget.Fits(40));
  EXPECT_FALSE(budget.Fits(41));
  budget.Reserve(40);
  EXPECT_TRUE(budget.Fits(0));
  EXPECT_FALSE(budget.Fits(1));
  budget.Release(60);
  budget.Release(40);
  EXPECT_EQ(budget.used_bytes(), 0);
}

TEST(ByteBudgetTest, ANarrowerLimitMayBeExceededAlready) {
  ByteBudget budget(100);
  budget.Reserve(80);
  EXPECT_FALSE(budget.FitsWithin(70, 0));
  EXPECT_TRUE(budget.FitsWithin(90, 10));
  EXPECT_FALSE(budget.FitsWithin(90, 11));
}

TEST(ByteBudgetTest, CountsOnWhatCouldBeReleased) {
  ByteBudget budget(100);
  budget.Reserve(80);
  EXPECT_TRUE(budget.FitsWithin(100, 50, 30));
  EXPECT_FALSE(budget.FitsWithin(100, 51, 30));
  EXPECT_TRUE(budget.FitsWithin(100, 100, 80));
  EXPECT_FALSE(budget.FitsWithin(49, 0, 30));
}

TEST(ByteBudgetTest, HugeSizesDoNotWrapAround) {
  ByteBudget budget(100);
  budget.Reserve(50);
  EXPECT_FALSE(budget.Fits(std::numeric_limits<std::size_t>::max()));
  EXPECT_FALSE(budget.Fits(std::numeric_limits<std::size_t>::max() - 49));
}

}  // namespace
}  // namespace theria::server
