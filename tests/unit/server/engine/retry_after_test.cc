#include "server/engine/retry_after.h"

#include "gtest/gtest.h"

namespace theria::server {
namespace {

TEST(RetryAfterTest, CarriesTheDelay) {
  const absl::Status status = ExhaustedRetryAfter("full", absl::Milliseconds(1250));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "full");
  EXPECT_EQ(RetryAfterOf(status), absl::Milliseconds(1250));
}

TEST(RetryAfterTest, OtherStatusesHaveNone) {
  EXPECT_EQ(RetryAfterOf(absl::ResourceExhaustedError("full")), std::nullopt);
  EXPECT_EQ(RetryAfterOf(absl::OkStatus()), std::nullopt);
}

}  // namespace
}  // namespace theria::server
