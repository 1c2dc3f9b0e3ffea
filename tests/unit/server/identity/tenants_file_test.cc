#include "server/identity/tenants_file.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

using testing::HasSubstr;

const std::string kDigest(64, 'a');

std::string Tenant(const std::string& members) {
  return R"({"tenants": {"physics": {"tokens": [{"sha256": ")" + kDigest + "\"}]" +
         (members.empty() ? "" : ", " + members) + "}}}";
}

TEST(TenantsFileTest, ReadsAllThereIs) {
  const auto tenants = ParseTenants(R"({"tenants": {
      "physics": {"tokens": [{"sha256": ")" +
                                    kDigest + R"(", "expires": "2027-01-31T00:00:00Z"}],
        "certificates": ["physics.example.org"], "store_bytes": "4GiB", "queued_requests": 64,
        "queued_bytes": 1048576, "requests_per_second": 2.5, "burst_requests": 10, "weight": 2},
      "maths": {"certificates": ["maths"]}}})");
  ASSERT_TRUE(tenants.ok()) << tenants.status();
  ASSERT_EQ(tenants->size(), 2u);
  const TenantEntry& maths = (*tenants)[0];
  EXPECT_EQ(maths.name, "maths");
  EXPECT_EQ(maths.limits, AccountLimits{});
  const TenantEntry& physics = (*tenants)[1];
  EXPECT_EQ(physics.limits,
            (AccountLimits{std::size_t{4} << 30, 64, std::size_t{1} << 20, 2.5, 10, 2}));
  ASSERT_EQ(physics.tokens.size(), 1u);
  EXPECT_EQ(physics.tokens[0].sha256[31], 0xAA);
  EXPECT_EQ(absl::ToUnixSeconds(physics.tokens[0].expires), 1801353600);
  EXPECT_EQ(physics.certificates, std::vector<std::string>{"physics.example.org"});
}

TEST(TenantsFileTest, ABurstIsASecondOfTheRate) {
  EXPECT_EQ((*ParseTenants(Tenant("\"requests_per_second\": 50")))[0].limits.burst_requests, 50);
  EXPECT_EQ((*ParseTenants(Tenant("\"requests_per_second\": 0.1")))[0].limits.burst_requests, 1);
}

TEST(TenantsFileTest, SaysWhatIsWrongWhere) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "no JSON"},
      {"{\"tenants\": {\n  \"a\": ]", "no JSON: parse error at line 2, column 8"},
      {R"({"tenants": {"a": {"certificates": ["c"]}, "b": {"certificates": ["d"]},
           "a": {"certificates": ["e"]}}})",
       "tenants.a stands there twice"},
      {R"({"tenants": {"a": {"certificates": ["c"]}}, "tenants": {}})",
       "tenants stands there twice"},
      {Tenant("\"weight\": 1, \"weight\": 2"), "tenants.physics.weight stands there twice"},
      {R"({"tenants": {"a": {"tokens": [{"sha256": "1", "sha256": "2"}]}}})",
       "tenants.a.tokens.sha256 stands there twice"},
      {"[]", "must be an object"},
      {"{}", "tenants must be"},
      {R"({"tenants": {}})", "tenants must be"},
      {R"({"tenants": {"physics": {}}})", "neither tokens nor certificates"},
      {R"({"tenants": {"a b": {"certificates": ["c"]}}})", "is no name"},
      {R"({"tenants": {"a": {"certificates": ["c"]}}, "more": 1})", "more is no known key"},
      {R"({"tenants": {"a": {"tokens": [{"sha256": "12"}]}}})", "tokens[0].sha256 must"},
      {R"({"tenants": {"a": {"tokens": [{"sha256": 12}]}}})", "tokens[0].sha256 must"},
      {R"({"tenants": {"a": {"certificates": ["c"]}, "b": {"certificates": ["c"]}}})",
       "tenants.b.certificates has one"},
      {Tenant("\"weight\": 0"), "physics.weight must"},
      {Tenant("\"weight\": \"2\""), "physics.weight must"},
      {Tenant("\"queued_requests\": 1.5"), "queued_requests must be whole"},
      {Tenant("\"queued_requests\": -1"), "queued_requests must"},
      {Tenant("\"store_bytes\": \"4 Gigs\""), "store_bytes must be bytes"},
      {Tenant("\"store_bytes\": \"99999999999TiB\""), "store_bytes must be bytes"},
      {Tenant("\"burst_requests\": 0.5"), "burst_requests must"},
      {Tenant("\"quota\": 5"), "physics.quota is no known key"},
      {Tenant("\"weight\": 1e400"), "no JSON: number overflow parsing '1e400'"},
      {R"({"tenants": {"a": {"tokens": )" + std::string(500'000, '[') + std::string(500'000, ']') +
           "}}}",
       "the file is nested more than 8 deep"},
  };
  for (const auto& [json, message] : cases) {
    const auto tenants = ParseTenants(json);
    ASSERT_FALSE(tenants.ok()) << json;
    EXPECT_EQ(tenants.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(tenants.status().message()), HasSubstr(message)) << json;
  }
}

TEST(TenantsFileTest, QuotesLittleOfAWrongFile) {
  const auto tenants = ParseTenants("\"" + std::string(1'000'000, 'x'));
  ASSERT_FALSE(tenants.ok());
  EXPECT_LT(tenants.status().message().size(), 300u);
}

}  // namespace
}  // namespace theria::server
