#include "server/telemetry/trace_context.h"

#include <string>

#include "gtest/gtest.h"

namespace theria::server {
namespace {

constexpr char kTrace[] = "0af7651916cd43dd8448eb211c80319c";
constexpr char kParent[] = "b7ad6b7169203331";

std::string Traceparent(const std::string& version, const std::string& flags) {
  return version + "-" + kTrace + "-" + kParent + "-" + flags;
}

TEST(TraceContextTest, ReadsTraceParentAndFlags) {
  const auto trace = ParseTraceparent(Traceparent("00", "01"));
  ASSERT_TRUE(trace.has_value());
  EXPECT_EQ(trace->trace_id, kTrace);
  EXPECT_EQ(trace->parent_id, kParent);
  EXPECT_TRUE(trace->is_sampled);
  EXPECT_FALSE(ParseTraceparent(Traceparent("00", "00"))->is_sampled);
  EXPECT_FALSE(ParseTraceparent(Traceparent("00", "fe"))->is_sampled);
  EXPECT_TRUE(ParseTraceparent(Traceparent("00", "ff"))->is_sampled);
}

TEST(TraceContextTest, ReadsWhatLaterVersionsKeep) {
  EXPECT_TRUE(ParseTraceparent(Traceparent("01", "01")).has_value());
  EXPECT_TRUE(ParseTraceparent(Traceparent("cc", "01-more")).has_value());
  EXPECT_FALSE(ParseTraceparent(Traceparent("cc", "01.more")).has_value());
}

TEST(TraceContextTest, IgnoresWhatIsNotWellFormed) {
  const std::string good = Traceparent("00", "01");
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_FALSE(ParseTraceparent(good.substr(0, length)).has_value()) << length;
  }
  for (std::size_t place = 0; place < good.size(); ++place) {
    for (const char other : {'G', 'A', ' ', '\0'}) {
      std::string bad = good;
      bad[place] = other;
      EXPECT_FALSE(ParseTraceparent(bad).has_value()) << place;
    }
  }
  const std::string zeros(32, '0');
  for (const std::string& bad : {Traceparent("ff", "01"), Traceparent("00", "01-more"),
                                 Traceparent("00", "011"), "00-" + zeros + "-" + kParent + "-01",
                                 "00-" + std::string(kTrace) + "-" + zeros.substr(16) + "-01"}) {
    EXPECT_FALSE(ParseTraceparent(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace theria::server
