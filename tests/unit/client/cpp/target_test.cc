#include "client/cpp/src/target.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "theria/error_details.h"

namespace theria::client {
namespace {

using testing::HasSubstr;

TEST(TargetTest, EveryAddressHasAPort) {
  for (const char* target : {"",
                             "localhost",
                             "localhost:",
                             ":50051",
                             "localhost:grpc",
                             "localhost:-1",
                             "10.0.0.1",
                             "::1",
                             "::1:50051",
                             "[::1]",
                             "[::1",
                             "http://localhost:50051",
                             "https://localhost",
                             "dns:localhost",
                             "dns://theria.example",
                             "dns:///theria.example",
                             "dns://8.8.8.8/theria.example",
                             "ipv4:10.0.0.1",
                             "ipv4:10.0.0.1:50051,10.0.0.2",
                             "ipv6:%5B::1%5D"}) {
    const absl::Status status = CheckTarget(target);
    ASSERT_TRUE(absl::IsInvalidArgument(status)) << target;
    EXPECT_EQ(DetailsOf(status).field_violations.at(0).field, "target");
    EXPECT_THAT(status.message(), HasSubstr("must be host:port"));
  }
}

TEST(TargetTest, PortsHaveSixteenBits) {
  for (const char* target : {"localhost:65536", "[::1]:99999", "ipv4:127.0.0.1:65537",
                             "localhost:18446744073709551617"}) {
    const absl::Status status = CheckTarget(target);
    ASSERT_TRUE(absl::IsInvalidArgument(status)) << target;
    EXPECT_THAT(status.message(), HasSubstr("over 65535"));
  }
}

TEST(TargetTest, NamesOfServers) {
  for (const char* target :
       {"localhost:65535", "10.0.0.1:1", "[::1]:50051", "[fe80::1%eth0]:50051",
        "dns:theria.example:50051", "dns:///theria.example:50051",
        "dns://8.8.8.8:53/theria.example:50051", "ipv4:10.0.0.1:50051,10.0.0.2:50051",
        "ipv6:[::1]:50051", "ipv6:%5B::1%5D:50051", "unix:relative/socket",
        "unix:///run/theria.sock:99999", "unix-abstract:theria", "vsock:2:50051",
        "xds:///theria"}) {
    EXPECT_TRUE(CheckTarget(target).ok()) << CheckTarget(target);
  }
}

}  // namespace
}  // namespace theria::client
