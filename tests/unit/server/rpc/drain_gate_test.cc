#include "server/rpc/drain_gate.h"

#include <thread>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

TEST(DrainGateTest, RefusesOnceClosed) {
  DrainGate gate;
  EXPECT_TRUE(gate.Check().ok());
  gate.Close();
  EXPECT_EQ(gate.Check().code(), absl::StatusCode::kUnavailable);
}

TEST(DrainGateTest, AwaitsTheLastCall) {
  DrainGate gate;
  EXPECT_TRUE(gate.AwaitIdle(absl::Now()));
  gate.Enter();
  gate.Enter();
  EXPECT_FALSE(gate.AwaitIdle(absl::Now() + absl::Milliseconds(10)));
  std::thread calls([&gate] {
    gate.Leave();
    absl::SleepFor(absl::Milliseconds(20));
    gate.Leave();
  });
  EXPECT_TRUE(gate.AwaitIdle(absl::Now() + absl::Seconds(20)));
  EXPECT_EQ(gate.total_calls(), 2u);
  calls.join();
}

}  // namespace
}  // namespace theria::server
