#include "server/rpc/status_map.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/api/attention.h"
#include "server/cache/exhausted.h"
#include "server/engine/retry_after.h"
#include "tests/unit/server/rpc/error_details.h"

namespace theria::server {
namespace {

TEST(StatusMapTest, OkIsOk) { EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok()); }

TEST(StatusMapTest, KeepsEveryCodeAndMessage) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status mapped = ToGrpcStatus(status);
    EXPECT_EQ(static_cast<int>(mapped.error_code()), code);
    EXPECT_EQ(mapped.error_message(), "why");
  }
}

TEST(StatusMapTest, PlainErrorsHaveNoDetails) {
  EXPECT_EQ(ToGrpcStatus(absl::InternalError("fault")).error_details(), "");
}

TEST(StatusMapTest, FieldsBecomeABadRequest) {
  const grpc::Status status =
      ToGrpcStatus(InvalidField("k.shape[3]", "is 48, must equal q.shape[3] = 64"));
  const auto detail = DetailOf<google::rpc::BadRequest>(status);
  ASSERT_TRUE(detail.has_value());
  ASSERT_EQ(detail->field_violations_size(), 1);
  EXPECT_EQ(detail->field_violations(0).field(), "k.shape[3]");
  EXPECT_EQ(detail->field_violations(0).description(),
            "k.shape[3] is 48, must equal q.shape[3] = 64");
  google::rpc::Status outer;
  ASSERT_TRUE(outer.ParseFromString(status.error_details()));
  EXPECT_EQ(outer.code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(outer.message(), status.error_message());
}

TEST(StatusMapTest, EveryMissingTensorIsAViolation) {
  const std::vector<std::string> handles = {"a", "b\nc", ""};
  const absl::Status missing = TensorsMissing(handles);
  EXPECT_EQ(MissingTensorsOf(missing), handles);
  const grpc::Status status = ToGrpcStatus(missing);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  const auto detail = DetailOf<google::rpc::PreconditionFailure>(status);
  ASSERT_TRUE(detail.has_value());
  ASSERT_EQ(detail->violations_size(), 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(detail->violations(i).type(), "TENSOR_MISSING");
    EXPECT_EQ(detail->violations(i).subject(), handles[static_cast<std::size_t>(i)]);
  }
}

TEST(StatusMapTest, OtherStatusesMissNoTensors) {
  EXPECT_TRUE(MissingTensorsOf(absl::FailedPreconditionError("else")).empty());
}

TEST(StatusMapTest, ExhaustionTellsWhenToRetry) {
  const auto exact = DetailOf<google::rpc::RetryInfo>(
      ToGrpcStatus(ExhaustedRetryAfter("full", absl::Milliseconds(2750))));
  ASSERT_TRUE(exact.has_value());
  EXPECT_EQ(exact->retry_delay().seconds(), 2);
  EXPECT_EQ(exact->retry_delay().nanos(), 750'000'000);
  const auto standard =
      DetailOf<google::rpc::RetryInfo>(ToGrpcStatus(absl::ResourceExhaustedError("full")));
  ASSERT_TRUE(standard.has_value());
  EXPECT_EQ(standard->retry_delay().seconds(), 1);
}

TEST(StatusMapTest, ExhaustionForGoodTellsNobodyToRetry) {
  const grpc::Status status = ToGrpcStatus(ExhaustedForGood("larger than the quota"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "larger than the quota");
  EXPECT_FALSE(DetailOf<google::rpc::RetryInfo>(status).has_value());
}

TEST(StatusMapTest, CutsWhatNoHeaderHolds) {
  std::string message;
  for (int i = 0; i < 5000; ++i) message += "é";
  const grpc::Status status = ToGrpcStatus(InvalidField(std::string(5000, 'f'), message));
  EXPECT_LT(status.error_message().size() + status.error_details().size(), 6000u);
  // Whole characters only: the details would not parse otherwise.
  EXPECT_TRUE(DetailOf<google::rpc::BadRequest>(status).has_value());

  const std::vector<std::string> handles(11, std::string(100000, 'h'));
  EXPECT_LT(ToGrpcStatus(TensorsMissing(handles)).error_details().size(), 4000u);
}

}  // namespace
}  // namespace theria::server
