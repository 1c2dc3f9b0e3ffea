#include "client/cpp/src/free_list.h"

#include <cstddef>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace theria::client {
namespace {

TEST(FreeListTest, TakesTheFirstHoleThatFits) {
  FreeList list(10);
  EXPECT_EQ(list.Take(4), 0u);
  EXPECT_EQ(list.Take(4), 4u);
  EXPECT_EQ(list.Take(4), std::nullopt);
  EXPECT_EQ(list.Take(2), 8u);
  list.Give(0, 4);
  EXPECT_EQ(list.Take(5), std::nullopt);
  EXPECT_EQ(list.Take(3), 0u);
  EXPECT_EQ(list.Take(1), 3u);
}

TEST(FreeListTest, HolesMergeOnBothSides) {
  FreeList list(9);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(list.Take(3).has_value());
  list.Give(0, 3);
  list.Give(6, 3);
  EXPECT_EQ(list.Take(6), std::nullopt);
  list.Give(3, 3);
  EXPECT_EQ(list.Take(9), 0u);
}

// Whatever is taken and given in whatever order, nothing overlaps, and all comes back.
TEST(FreeListTest, NothingOverlapsAndNothingIsLost) {
  constexpr std::size_t kBytes = 1000;
  FreeList list(kBytes);
  std::mt19937 random(1);
  std::map<std::size_t, std::size_t> taken;
  for (int step = 0; step < 20000; ++step) {
    if (random() % 2 == 0) {
      const std::size_t size = 1 + random() % 60;
      const auto offset = list.Take(size);
      if (!offset.has_value()) continue;
      ASSERT_LE(*offset + size, kBytes);
      const auto next = taken.lower_bound(*offset);
      if (next != taken.end()) {
        ASSERT_LE(*offset + size, next->first);
      }
      if (next != taken.begin()) {
        ASSERT_LE(std::prev(next)->first + std::prev(next)->second, *offset);
      }
      taken[*offset] = size;
    } else if (!taken.empty()) {
      const auto it =
          std::next(taken.begin(), static_cast<std::ptrdiff_t>(random() % taken.size()));
      list.Give(it->first, it->second);
      taken.erase(it);
    }
  }
  for (const auto& [offset, size] : taken) list.Give(offset, size);
  EXPECT_EQ(list.Take(kBytes), 0u);
}

TEST(FreeListTest, FromManyThreads) {
  FreeList list(64);
  std::vector<std::thread> threads;
  for (std::size_t size = 1; size <= 4; ++size) {
    threads.emplace_back([&list, size] {
      for (int i = 0; i < 2000; ++i) {
        const auto offset = list.Take(size);
        if (offset.has_value()) list.Give(*offset, size);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(list.Take(64), 0u);
}

}  // namespace
}  // namespace theria::client
