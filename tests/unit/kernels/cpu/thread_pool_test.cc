#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>

namespace theria::cpu {
namespace {

using std::chrono::milliseconds;

TEST(ThreadPoolTest, TheCallerAloneWithoutHelpers) {
  ThreadPool pool(4);
  std::set<std::thread::id> threads;
  pool.Run(0, [&](ThreadPool::Seat& seat) {
    EXPECT_FALSE(seat.ShouldLeave());
    threads.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(threads, std::set<std::thread::id>{std::this_thread::get_id()});
}

TEST(ThreadPoolTest, HelpersJoin) {
  ThreadPool pool(3);
  std::atomic<int> inside{0};
  // Nobody returns before all three are here.
  pool.Run(8, [&](ThreadPool::Seat&) {
    ++inside;
    while (inside < 3) std::this_thread::yield();
  });
  EXPECT_EQ(inside, 3);
}

TEST(ThreadPoolTest, NoMoreHelpersThanAskedFor) {
  ThreadPool pool(8);
  std::atomic<int> bodies{0};
  pool.Run(1, [&](ThreadPool::Seat&) {
    ++bodies;
    std::this_thread::sleep_for(milliseconds(20));
  });
  EXPECT_LE(bodies, 2);
}

TEST(ThreadPoolTest, RunReturnsAfterAllBodies) {
  ThreadPool pool(4);
  for (int run = 0; run < 200; ++run) {
    std::atomic<int> inside{0};
    std::atomic<int> work{16};
    pool.Run(15, [&](ThreadPool::Seat& seat) {
      ++inside;
      while (!seat.ShouldLeave() && work.fetch_sub(1) > 0) std::this_thread::yield();
      --inside;
    });
    ASSERT_EQ(inside, 0);
    ASSERT_LE(work, 0);
  }
}

TEST(ThreadPoolTest, HelpersMakeRoomForNewCallers) {
  ThreadPool pool(2);
  std::atomic<bool> helper_in{false};
  std::atomic<bool> helper_left{false};
  std::atomic<bool> second_done{false};
  const std::thread::id caller = std::this_thread::get_id();
  std::thread second([&] {
    while (!helper_in) std::this_thread::yield();
    // One caller and one helper compute: with this caller they are three on two cores.
    pool.Run(0, [&](ThreadPool::Seat&) {
      while (!helper_left) std::this_thread::yield();
    });
    second_done = true;
  });
  pool.Run(1, [&](ThreadPool::Seat& seat) {
    if (std::this_thread::get_id() == caller) {
      while (!second_done) std::this_thread::yield();
      return;
    }
    helper_in = true;
    while (!seat.ShouldLeave() && !second_done) std::this_thread::yield();
    if (seat.ShouldLeave()) helper_left = true;
  });
  second.join();
  EXPECT_TRUE(helper_left);
}

TEST(ThreadPoolTest, ManyCallers) {
  ThreadPool pool(3);
  std::atomic<int> done{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&] {
      for (int run = 0; run < 50; ++run) {
        std::atomic<int> work{32};
        std::atomic<int> mine{0};
        pool.Run(31, [&](ThreadPool::Seat& seat) {
          while (!seat.ShouldLeave() && work.fetch_sub(1) > 0) ++mine;
        });
        if (mine == 32) ++done;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(done, 8 * 50);
}

}  // namespace
}  // namespace theria::cpu
