#include "server/telemetry/log.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using testing::internal::CaptureStderr;
using testing::internal::GetCapturedStderr;

TEST(LogTest, QuotesWhatNeedsQuotes) {
  EXPECT_EQ(LogValue(LogFormat::kLogfmt, "plain/word:1"), "plain/word:1");
  EXPECT_EQ(LogValue(LogFormat::kLogfmt, ""), "\"\"");
  EXPECT_EQ(LogValue(LogFormat::kLogfmt, "two words"), "\"two words\"");
  EXPECT_EQ(LogValue(LogFormat::kLogfmt, "a=b"), "\"a=b\"");
  EXPECT_EQ(LogValue(LogFormat::kJson, "plain"), "\"plain\"");
}

TEST(LogTest, NoValueBreaksALine) {
  EXPECT_EQ(LogValue(LogFormat::kJson, "a\"b\\c\nd\x01\xff"),
            "\"a\\\"b\\\\c\\u000ad\\u0001\\u00ff\"");
}

TEST(LogTest, WritesLogfmt) {
  CaptureStderr();
  SetUpLog(spdlog::level::info, LogFormat::kLogfmt);
  LogLine(spdlog::level::info, "rpc")
      .Add("peer", "a b")
      .Add("seconds", 0.25)
      .Add("bytes", std::uint64_t{12});
  const std::string text = GetCapturedStderr();
  EXPECT_THAT(text, StartsWith("time=2"));
  EXPECT_THAT(text, HasSubstr("Z level=info event=rpc peer=\"a b\" seconds=0.25 bytes=12\n"));
}

TEST(LogTest, WritesJson) {
  CaptureStderr();
  SetUpLog(spdlog::level::info, LogFormat::kJson);
  LogLine(spdlog::level::warn, "rpc")
      .Add("peer", "a b")
      .Add("seconds", 0.25)
      .Add("bytes", std::uint64_t{12});
  const std::string text = GetCapturedStderr();
  EXPECT_THAT(text, StartsWith("{\"time\":\"2"));
  EXPECT_THAT(text, HasSubstr("Z\",\"level\":\"warning\",\"event\":\"rpc\",\"peer\":\"a b\","
                              "\"seconds\":0.25,\"bytes\":12}\n"));
}

TEST(LogTest, KeepsSilentBelowItsLevel) {
  CaptureStderr();
  SetUpLog(spdlog::level::warn, LogFormat::kLogfmt);
  LogLine(spdlog::level::info, "rpc").Add("peer", "x");
  EXPECT_EQ(GetCapturedStderr(), "");
}

}  // namespace
}  // namespace theria::server
