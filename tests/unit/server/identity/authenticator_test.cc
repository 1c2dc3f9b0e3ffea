#include "server/identity/authenticator.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

// Of "secret" and of "other", by sha256sum.
constexpr char kSecret[] = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
constexpr char kOther[] = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";

class AuthenticatorTest : public testing::Test {
 protected:
  ~AuthenticatorTest() override { std::remove(path_.c_str()); }

  // Replaces the file as a whole.
  void Write(const std::string& json) {
    const std::string partial = path_ + ".partial";
    std::ofstream(partial) << json;
    std::rename(partial.c_str(), path_.c_str());
  }
  void WriteToken(const std::string& tenant, const std::string& sha256,
                  const std::string& more = "") {
    Write(R"({"tenants": {")" + tenant + R"(": {"tokens": [{"sha256": ")" + sha256 +
          R"(", "expires": "2030-01-01T00:00:00Z"}], "certificates": ["client"])" + more + "}}}");
  }
  std::unique_ptr<Authenticator> Open() {
    auto opened = Authenticator::Open(
        path_,
        [this](const Account& account) {
          quotas_.emplace_back(account.tenant().name, account.limits().quota_bytes);
        },
        [this] { return now_; });
    EXPECT_TRUE(opened.ok()) << opened.status();
    return *std::move(opened);
  }
  static std::string TenantOf(const Authenticator& authenticator, const Credentials& credentials) {
    const absl::StatusOr<Account*> account = authenticator.Authenticate(credentials);
    if (account.ok()) return (*account)->tenant().name;
    EXPECT_EQ(account.status().code(), absl::StatusCode::kUnauthenticated);
    return "nobody";
  }

  const std::string path_ =
      testing::TempDir() + "/theria_tenants." + std::to_string(getpid()) + ".json";
  absl::Time now_ = absl::FromUnixSeconds(1'800'000'000);  // 2027
  std::vector<std::pair<std::string, std::size_t>> quotas_;
};

TEST_F(AuthenticatorTest, WithoutAFileEveryoneIsTheDefaultTenant) {
  Authenticator open;
  EXPECT_EQ(TenantOf(open, {}), "");
  EXPECT_EQ(TenantOf(open, {.authorization = {"Bearer whatever"}}), "");
  EXPECT_FALSE(*open.Refresh());
}

TEST_F(AuthenticatorTest, ATokenNamesItsTenantUntilItExpires) {
  WriteToken("one", kSecret);
  const auto authenticator = Open();
  EXPECT_EQ(TenantOf(*authenticator, {.authorization = {"Bearer secret"}}), "one");
  EXPECT_EQ(TenantOf(*authenticator, {.authorization = {"bearer secret"}}), "one");
  for (const char* wrong :
       {"Bearer other", "Bearer secret ", "Bearer", "secret", "Basic secret", ""}) {
    EXPECT_EQ(TenantOf(*authenticator, {.authorization = {wrong}}), "nobody") << wrong;
  }
  EXPECT_EQ(TenantOf(*authenticator, {}), "nobody");
  now_ = absl::FromUnixSeconds(1'893'456'000);  // 2030-01-01
  EXPECT_EQ(TenantOf(*authenticator, {.authorization = {"Bearer secret"}}), "nobody");
}

TEST_F(AuthenticatorTest, ACertificateNamesItsTenantUnlessAHeaderComes) {
  WriteToken("one", kSecret);
  const auto authenticator = Open();
  EXPECT_EQ(TenantOf(*authenticator, {.certificate = {"elsewhere", "client"}}), "one");
  EXPECT_EQ(TenantOf(*authenticator, {.certificate = {"elsewhere"}}), "nobody");
  EXPECT_EQ(
      TenantOf(*authenticator, {.authorization = {"Bearer wrong"}, .certificate = {"client"}}),
      "nobody");
  EXPECT_EQ(TenantOf(*authenticator,
                     {.authorization = {"Bearer secret", "Bearer secret"}, .certificate = {}}),
            "nobody");
}

TEST_F(AuthenticatorTest, UnknownAndExpiredLookAlike) {
  WriteToken("one", kSecret);
  const auto authenticator = Open();
  const std::string unknown(
      authenticator->Authenticate({.authorization = {"Bearer x"}}).status().message());
  now_ = absl::FromUnixSeconds(1'893'456'000);
  EXPECT_EQ(authenticator->Authenticate({.authorization = {"Bearer secret"}}).status().message(),
            unknown);
}

TEST_F(AuthenticatorTest, TheOperatorIsToldWhatTheCallerIsNot) {
  WriteToken("one", kSecret);
  const auto authenticator = Open();
  const std::vector<std::pair<Credentials, LoginRefusal>> refused = {
      {{}, LoginRefusal::kNoCredentials},
      {{.authorization = {"Basic secret"}}, LoginRefusal::kMalformed},
      {{.authorization = {"Bearer secret", "Bearer secret"}}, LoginRefusal::kMalformed},
      {{.authorization = {"Bearer x"}, .certificate = {"client"}}, LoginRefusal::kUnknownToken},
      {{.certificate = {"elsewhere"}}, LoginRefusal::kUnknownCertificate},
  };
  const RefusedLogins& logins = authenticator->refused_logins();
  for (const auto& [credentials, refusal] : refused) {
    const std::uint64_t before = logins.count(refusal);
    EXPECT_EQ(TenantOf(*authenticator, credentials), "nobody");
    EXPECT_EQ(logins.count(refusal), before + 1) << LoginRefusalName(refusal);
  }
  EXPECT_EQ(TenantOf(*authenticator, {.authorization = {"Bearer secret"}}), "one");
  EXPECT_EQ(logins.count(LoginRefusal::kExpiredToken), 0u);
  now_ = absl::FromUnixSeconds(1'893'456'000);
  EXPECT_EQ(TenantOf(*authenticator, {.authorization = {"Bearer secret"}}), "nobody");
  EXPECT_EQ(logins.count(LoginRefusal::kExpiredToken), 1u);
}

TEST_F(AuthenticatorTest, AChangedFileCountsAndABrokenOneDoesNot) {
  WriteToken("one", kSecret);
  const auto authenticator = Open();
  EXPECT_FALSE(*authenticator->Refresh());
  Write("broken");
  EXPECT_FALSE(authenticator->Refresh().ok());
  EXPECT_FALSE(*authenticator->Refresh());  // told once
  EXPECT_EQ(TenantOf(*authenticator, {.authorization = {"Bearer secret"}}), "one");
  WriteToken("two", kOther);
  EXPECT_TRUE(*authenticator->Refresh());
  EXPECT_EQ(TenantOf(*authenticator, {.authorization = {"Bearer secret"}}), "nobody");
  EXPECT_EQ(TenantOf(*authenticator, {.authorization = {"Bearer other"}}), "two");
}

TEST_F(AuthenticatorTest, AnAccountOutlivesItsEntryAndLearnsNewLimits) {
  WriteToken("one", kSecret);
  const auto authenticator = Open();
  Account* const account = *authenticator->Authenticate({.authorization = {"Bearer secret"}});
  WriteToken("two", kOther);
  ASSERT_TRUE(*authenticator->Refresh());
  WriteToken("one", kSecret, R"(, "store_bytes": "1MiB")");
  ASSERT_TRUE(*authenticator->Refresh());
  EXPECT_EQ(*authenticator->Authenticate({.authorization = {"Bearer secret"}}), account);
  EXPECT_EQ(account->limits().quota_bytes, std::size_t{1} << 20);
  EXPECT_EQ(quotas_.back(), std::pair(std::string("one"), std::size_t{1} << 20));
  EXPECT_EQ(authenticator->accounts().size(), 2u);
}

TEST_F(AuthenticatorTest, SaysWhyAFileCannotBeRead) {
  const std::pair<std::string, std::string> cases[] = {
      {"/nowhere/tenants.json",
       "--tenants is '/nowhere/tenants.json', which cannot be read: No such file or directory"},
      {testing::TempDir(), "which cannot be read: Is a directory"},
  };
  for (const auto& [path, message] : cases) {
    const auto opened = Authenticator::Open(path, [](const Account&) {});
    EXPECT_EQ(opened.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(opened.status().message()), testing::HasSubstr(message));
  }
}

TEST_F(AuthenticatorTest, NamesTheFlagOfAFileThatIsWrong) {
  Write("broken");
  const auto opened = Authenticator::Open(path_, [](const Account&) {});
  EXPECT_THAT(std::string(opened.status().message()),
              testing::HasSubstr("--tenants is '" + path_ + "', which is wrong: the file is no"));
}

TEST_F(AuthenticatorTest, ATenantThatStandsThereTwiceLeavesTheOldOnes) {
  WriteToken("one", kSecret);
  const auto authenticator = Open();
  Write(R"({"tenants": {"two": {"certificates": ["a"]}, "two": {"certificates": ["b"]}}})");
  EXPECT_THAT(std::string(authenticator->Refresh().status().message()),
              testing::HasSubstr("tenants.two stands there twice"));
  EXPECT_EQ(TenantOf(*authenticator, {.authorization = {"Bearer secret"}}), "one");
}

}  // namespace
}  // namespace theria::server
