#include "client/cpp/src/retry.h"

#include <vector>

#include "absl/strings/cord.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"

namespace theria::client {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::SizeIs;

class RetrierTest : public testing::Test {
 protected:
  RetryClock Clock() {
    return {.now = [this] { return now_; },
            .sleep =
                [this](absl::Duration wait) {
                  waits_.push_back(wait);
                  now_ += wait;
                }};
  }

  absl::Time now_ = absl::UnixEpoch();
  std::vector<absl::Duration> waits_;
};

TEST_F(RetrierTest, RepeatsWhileUnavailable) {
  Retrier retrier({.max_attempts = 5, .jitter = 0.0}, Clock());
  int attempts = 0;
  EXPECT_TRUE(
      retrier
          .Run(absl::InfiniteFuture(),
               [&] { return ++attempts < 4 ? absl::UnavailableError("down") : absl::OkStatus(); })
          .ok());
  EXPECT_EQ(attempts, 4);
  EXPECT_THAT(waits_, ElementsAre(absl::Milliseconds(50), absl::Milliseconds(100),
                                  absl::Milliseconds(200)));
}

TEST_F(RetrierTest, DoesNotRepeatAFinalFailure) {
  Retrier retrier({.max_attempts = 5}, Clock());
  int attempts = 0;
  const absl::Status status = retrier.Run(absl::InfiniteFuture(), [&]() -> Attempt {
    ++attempts;
    return {absl::UnavailableError("no TLS there"), /*is_final=*/true};
  });
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(attempts, 1);
}

TEST_F(RetrierTest, GivesUpAfterTheLastAttempt) {
  Retrier retrier({.max_attempts = 3}, Clock());
  int attempts = 0;
  const absl::Status status = retrier.Run(absl::InfiniteFuture(), [&] {
    ++attempts;
    return absl::UnavailableError("down");
  });
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(attempts, 3);
}

TEST_F(RetrierTest, RepeatsNothingElse) {
  for (const absl::StatusCode code :
       {absl::StatusCode::kOk, absl::StatusCode::kResourceExhausted,
        absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kCancelled,
        absl::StatusCode::kInternal, absl::StatusCode::kInvalidArgument,
        absl::StatusCode::kFailedPrecondition}) {
    Retrier retrier({}, Clock());
    int attempts = 0;
    EXPECT_EQ(retrier
                  .Run(absl::InfiniteFuture(),
                       [&] {
                         ++attempts;
                         return absl::Status(code, "");
                       })
                  .code(),
              code);
    EXPECT_EQ(attempts, 1) << absl::StatusCodeToString(code);
  }
  EXPECT_THAT(waits_, SizeIs(0));
}

absl::Status Refusal(int delay_seconds) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(delay_seconds);
  absl::Status status = absl::ResourceExhaustedError("full");
  status.SetPayload("type.googleapis.com/google.rpc.RetryInfo",
                    absl::Cord(retry.SerializeAsString()));
  return status;
}

TEST_F(RetrierTest, WaitsOutRefusalsIfAsked) {
  for (const int max_refusals : {0, 1, 2}) {
    Retrier retrier({.max_attempts = 1, .max_refusals = max_refusals}, Clock());
    int attempts = 0;
    const absl::Status status = retrier.Run(absl::InfiniteFuture(), [&] {
      return ++attempts < 3 ? Refusal(attempts) : absl::OkStatus();
    });
    EXPECT_EQ(attempts, 1 + max_refusals);
    EXPECT_EQ(status.ok(), max_refusals == 2) << status;
  }
  EXPECT_THAT(waits_, ElementsAre(absl::Seconds(1), absl::Seconds(1), absl::Seconds(2)));
}

TEST_F(RetrierTest, DoesNotWaitForARefusalWithoutADelayOrPastTheDeadline) {
  Retrier retrier({.max_refusals = 9}, Clock());
  EXPECT_TRUE(absl::IsResourceExhausted(retrier.Run(
      absl::InfiniteFuture(), [] { return absl::ResourceExhaustedError("for good"); })));
  EXPECT_TRUE(
      absl::IsResourceExhausted(retrier.Run(now_ + absl::Seconds(5), [] { return Refusal(5); })));
  EXPECT_THAT(waits_, SizeIs(0));
}

TEST_F(RetrierTest, WaitsAreBoundedAndJittered) {
  Retrier retrier({.max_attempts = 200,
                   .initial_backoff = absl::Seconds(1),
                   .max_backoff = absl::Seconds(1),
                   .jitter = 0.5},
                  Clock());
  const absl::Status status =
      retrier.Run(absl::InfiniteFuture(), [] { return absl::UnavailableError("down"); });
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(waits_, SizeIs(199));
  EXPECT_THAT(waits_, Each(testing::AllOf(testing::Ge(absl::Milliseconds(500)),
                                          testing::Le(absl::Seconds(1)))));
  EXPECT_NE(waits_.front(), waits_.back());
}

TEST_F(RetrierTest, NeverWaitsPastTheDeadline) {
  Retrier retrier({.max_attempts = 100, .jitter = 0.0}, Clock());
  const absl::Time deadline = now_ + absl::Milliseconds(160);
  int attempts = 0;
  const absl::Status status = retrier.Run(deadline, [&] {
    ++attempts;
    return absl::UnavailableError("down");
  });
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(attempts, 3);  // at 0, 50 and 150 ms; the next would be at 350 ms
  EXPECT_LT(now_, deadline);
}

}  // namespace
}  // namespace theria::client
