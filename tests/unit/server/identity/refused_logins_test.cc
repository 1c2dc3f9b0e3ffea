#include "server/identity/refused_logins.h"

#include <algorithm>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/telemetry/log.h"

namespace theria::server {
namespace {

using testing::HasSubstr;

class RefusedLoginsTest : public testing::Test {
 protected:
  RefusedLoginsTest() {
    testing::internal::CaptureStderr();
    SetUpLog(spdlog::level::warn, LogFormat::kLogfmt);
  }
  ~RefusedLoginsTest() override { testing::internal::GetCapturedStderr(); }

  // What was logged since the last time.
  std::string Log() {
    std::string text = testing::internal::GetCapturedStderr();
    testing::internal::CaptureStderr();
    return text;
  }
  static std::size_t Lines(const std::string& text) {
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
  }

  absl::Duration now_ = absl::Hours(5);
  RefusedLogins logins_{[this] { return now_; }};
};

TEST_F(RefusedLoginsTest, TheFirstOfAHostIsToldAtOnceWhateverItsPort) {
  logins_.Add(LoginRefusal::kUnknownToken, "ipv4:10.0.0.7:51234");
  logins_.Add(LoginRefusal::kUnknownToken, "ipv4:10.0.0.7:51235");
  logins_.Add(LoginRefusal::kNoCredentials, "ipv4:10.0.0.7:51235");
  const std::string one = Log();
  EXPECT_EQ(Lines(one), 1u) << one;
  EXPECT_THAT(one, HasSubstr("level=warning event=\"login refused\" host=ipv4:10.0.0.7 "
                             "reason=unknown_token\n"));

  logins_.Add(LoginRefusal::kExpiredToken, "ipv6:%5B::1%5D:51234", "physics");
  logins_.Add(LoginRefusal::kMalformed, "unix:/run/theria/rpc");
  const std::string others = Log();
  EXPECT_EQ(Lines(others), 2u) << others;
  EXPECT_THAT(others, HasSubstr("host=ipv6:%5B::1%5D reason=expired_token whose=physics\n"));
  EXPECT_THAT(others, HasSubstr("host=unix:/run/theria/rpc reason=malformed\n"));
}

TEST_F(RefusedLoginsTest, AllAreCountedByReason) {
  for (int i = 0; i < 5; ++i) logins_.Add(LoginRefusal::kUnknownToken, "ipv4:10.0.0.7:51234");
  logins_.Add(LoginRefusal::kUnknownCertificate, "ipv4:10.0.0.7:51234", "stranger");
  EXPECT_EQ(logins_.count(LoginRefusal::kUnknownToken), 5u);
  EXPECT_EQ(logins_.count(LoginRefusal::kUnknownCertificate), 1u);
  EXPECT_EQ(logins_.count(LoginRefusal::kExpiredToken), 0u);
}

TEST_F(RefusedLoginsTest, ALoopIsToldOnceAMinuteWithHowMany) {
  for (int i = 0; i < 1000; ++i) logins_.Add(LoginRefusal::kUnknownToken, "ipv4:10.0.0.7:1");
  logins_.TellWhatFollowed();
  EXPECT_EQ(Lines(Log()), 1u);

  now_ += absl::Seconds(59);
  logins_.TellWhatFollowed();
  EXPECT_EQ(Log(), "");
  now_ += absl::Seconds(1);
  logins_.TellWhatFollowed();
  EXPECT_THAT(Log(), HasSubstr("level=warning event=\"logins refused\" host=ipv4:10.0.0.7 "
                               "times=999 seconds=60\n"));

  logins_.Add(LoginRefusal::kUnknownToken, "ipv4:10.0.0.7:1");
  EXPECT_EQ(Log(), "");
  now_ += absl::Minutes(1);
  logins_.TellWhatFollowed();
  EXPECT_THAT(Log(), HasSubstr("times=1 seconds=60\n"));
}

TEST_F(RefusedLoginsTest, AHostThatKeptQuietForAMinuteIsToldAtOnceAgain) {
  logins_.Add(LoginRefusal::kUnknownToken, "ipv4:10.0.0.7:1");
  now_ += absl::Minutes(1);
  logins_.TellWhatFollowed();
  EXPECT_EQ(Lines(Log()), 1u);
  logins_.Add(LoginRefusal::kUnknownToken, "ipv4:10.0.0.7:1");
  EXPECT_THAT(Log(), HasSubstr("login refused"));
}

TEST_F(RefusedLoginsTest, ManyHostsAreToldAsOne) {
  for (std::size_t i = 0; i < 10 * RefusedLogins::kMaxHosts; ++i) {
    logins_.Add(LoginRefusal::kUnknownToken, "ipv4:10.0.0." + std::to_string(i) + ":1");
  }
  const std::string first = Log();
  EXPECT_EQ(Lines(first), RefusedLogins::kMaxHosts + 1);
  EXPECT_THAT(first, HasSubstr("host=others "));
  now_ += absl::Minutes(1);
  logins_.TellWhatFollowed();
  const std::string then = Log();
  EXPECT_EQ(Lines(then), 1u);
  const std::string followed = std::to_string(9 * RefusedLogins::kMaxHosts - 1);
  EXPECT_THAT(then, HasSubstr("host=others times=" + followed + " "));
  // Their places are free again.
  logins_.Add(LoginRefusal::kUnknownToken, "ipv4:10.0.1.1:1");
  EXPECT_THAT(Log(), HasSubstr("host=ipv4:10.0.1.1 "));
}

}  // namespace
}  // namespace theria::server
