#include "client/cpp/src/status_codec.h"

#include <string>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "theria/error_details.h"

namespace theria::client {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

template <typename Detail>
grpc::Status WithDetail(grpc::StatusCode code, const Detail& detail) {
  google::rpc::Status details;
  details.add_details()->PackFrom(detail);
  return {code, "message", details.SerializeAsString()};
}

TEST(StatusCodecTest, KeepsCodeAndMessage) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status =
        FromGrpcStatus({static_cast<grpc::StatusCode>(code), "what happened"});
    EXPECT_EQ(static_cast<int>(status.code()), code);
    EXPECT_EQ(std::string(status.message()), "what happened");
  }
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(StatusCodecTest, FieldViolations) {
  google::rpc::BadRequest detail;
  auto* violation = detail.add_field_violations();
  violation->set_field("k.shape[3]");
  violation->set_description("is 48, must equal q.shape[3] = 64");
  const ErrorDetails details =
      DetailsOf(FromGrpcStatus(WithDetail(grpc::StatusCode::INVALID_ARGUMENT, detail)));
  ASSERT_EQ(details.field_violations.size(), 1u);
  EXPECT_EQ(details.field_violations[0].field, "k.shape[3]");
  EXPECT_EQ(details.field_violations[0].description, "is 48, must equal q.shape[3] = 64");
}

TEST(StatusCodecTest, OnlyMissingTensorsAreMissingHandles) {
  google::rpc::PreconditionFailure detail;
  auto* missing = detail.add_violations();
  missing->set_type("TENSOR_MISSING");
  missing->set_subject("a");
  auto* other = detail.add_violations();
  other->set_type("SOMETHING_ELSE");
  other->set_subject("b");
  const absl::Status status =
      FromGrpcStatus(WithDetail(grpc::StatusCode::FAILED_PRECONDITION, detail));
  EXPECT_THAT(DetailsOf(status).missing_handles, ElementsAre("a"));
}

TEST(StatusCodecTest, RetryDelay) {
  google::rpc::RetryInfo detail;
  detail.mutable_retry_delay()->set_seconds(1);
  detail.mutable_retry_delay()->set_nanos(500000000);
  const absl::Status status =
      FromGrpcStatus(WithDetail(grpc::StatusCode::RESOURCE_EXHAUSTED, detail));
  EXPECT_EQ(DetailsOf(status).retry_delay, absl::Milliseconds(1500));
}

TEST(StatusCodecTest, BrokenDetailsAreLeftOut) {
  const absl::Status status =
      FromGrpcStatus({grpc::StatusCode::INVALID_ARGUMENT, "message", "\xff\xff not a message"});
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(DetailsOf(status).field_violations, IsEmpty());
  EXPECT_FALSE(DetailsOf(absl::OkStatus()).retry_delay.has_value());
}

TEST(StatusCodecTest, OwnErrorsNameTheirField) {
  const ErrorDetails details = DetailsOf(InvalidField("q_dot", "must be absent"));
  ASSERT_EQ(details.field_violations.size(), 1u);
  EXPECT_EQ(details.field_violations[0].field, "q_dot");
}

}  // namespace
}  // namespace theria::client
