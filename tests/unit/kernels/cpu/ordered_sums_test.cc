#include "kernels/cpu/ordered_sums.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace theria::cpu {
namespace {

TEST(OrderedSumsTest, StartsAtZero) {
  auto sums = OrderedSums::Make({2, 1, 3, 8});
  ASSERT_TRUE(sums.ok()) << sums.status();
  ASSERT_TRUE((*sums)->Open(1).ok());
  for (std::int64_t tile = 0; tile < 3; ++tile) {
    const double* const elements = (*sums)->Enter(1, 0, tile);
    for (int i = 0; i < 8; ++i) EXPECT_EQ(elements[i], 0.0);
    (*sums)->Leave(1, 0, tile);
  }
}

TEST(OrderedSumsTest, AddsInOrderOnManyThreads) {
  constexpr std::int64_t kBlocks = 64;
  constexpr std::int64_t kTiles = 5;
  auto sums = OrderedSums::Make({1, kBlocks, kTiles, 8});
  ASSERT_TRUE(sums.ok()) << sums.status();
  ASSERT_TRUE((*sums)->Open(0).ok());
  std::vector<std::vector<std::int64_t>> orders(kTiles);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (std::int64_t ordinal = thread; ordinal < kBlocks; ordinal += 4) {
        for (std::int64_t tile = 0; tile < kTiles; ++tile) {
          double* const elements = (*sums)->Enter(0, ordinal, tile);
          orders[tile].push_back(ordinal);
          elements[0] += 1.0;
          if ((*sums)->IsLast(ordinal)) {
            EXPECT_EQ(elements[0], kBlocks);
          }
          (*sums)->Leave(0, ordinal, tile);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<std::int64_t>& order : orders) {
    ASSERT_EQ(order.size(), static_cast<std::size_t>(kBlocks));
    for (std::int64_t i = 0; i < kBlocks; ++i) EXPECT_EQ(order[i], i);
  }
}

TEST(OrderedSumsTest, UnopenedChainsGiveNull) {
  auto sums = OrderedSums::Make({1, 2, 1, 8});
  ASSERT_TRUE(sums.ok());
  EXPECT_EQ((*sums)->Enter(0, 0, 0), nullptr);
  (*sums)->Leave(0, 0, 0);
  EXPECT_EQ((*sums)->Enter(0, 1, 0), nullptr);
}

TEST(OrderedSumsTest, AbsurdSizesAreResourceExhausted) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 50;
  EXPECT_EQ(OrderedSums::Make({kHuge, 1, kHuge, 8}).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(OrderedSums::Make({1, 1, kHuge, kHuge}).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace theria::cpu
