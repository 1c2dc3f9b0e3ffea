#include "client/cpp/src/connect_failure.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::client {
namespace {

using testing::EndsWith;
using testing::HasSubstr;

constexpr char kConnecting[] = "failed to connect to all addresses; last error: ";

struct Case {
  const char* reason;  // as gRPC gives it, after kConnecting
  const char* explanation;
  bool is_final;
  bool uses_tls = false;
};

class ConnectFailureTest : public testing::TestWithParam<Case> {};

TEST_P(ConnectFailureTest, NamesTheTargetAndTheCause) {
  const Endpoint endpoint = {"host:1", GetParam().uses_tls, absl::Seconds(5), absl::Seconds(20)};
  const auto failure =
      ExplainConnectFailure(endpoint, std::string(kConnecting) + GetParam().reason);
  ASSERT_TRUE(failure.has_value());
  EXPECT_THAT(failure->message, HasSubstr("host:1"));
  EXPECT_THAT(failure->message, HasSubstr(GetParam().explanation));
  EXPECT_THAT(failure->message, EndsWith(std::string(" (") + GetParam().reason + ")"));
  EXPECT_EQ(failure->is_final, GetParam().is_final);
}

// The reasons are those of gRPC 1.51 and 1.80.
INSTANTIATE_TEST_SUITE_P(
    Causes, ConnectFailureTest,
    testing::Values(
        Case{"UNKNOWN: ipv4:1.1.1.1:1: Failed to connect to remote host: Connection refused",
             "no server listens", false},
        Case{"UNKNOWN: unix:/x: No such file or directory", "there is no socket", false},
        Case{"UNKNOWN: ipv4:1.1.1.1:1: Ssl handshake failed: SSL_ERROR_SSL: error:0A00010B:SSL "
             "routines::wrong version number",
             "does not speak TLS", true, true},
        Case{"UNKNOWN: ipv4:1.1.1.1:1: Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: "
             "error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER",
             "does not speak TLS", true, true},
        Case{"UNKNOWN: ipv4:1.1.1.1:1: Ssl handshake failed: SSL_ERROR_SSL: error:0A000086:SSL "
             "routines::certificate verify failed",
             "is not trusted", true, true},
        Case{"UNKNOWN: ipv4:1.1.1.1:1: Peer name 1.1.1.1 is not in peer certificate",
             "is for another name", true, true},
        Case{"INTERNAL: ipv4:1.1.1.1:1: Trying to connect an http1.x server", "speaks HTTP/1",
             true},
        Case{"UNKNOWN: ipv4:1.1.1.1:1: connection attempt timed out before receiving SETTINGS "
             "frame",
             "did not answer within 5s", true},
        Case{"UNKNOWN: ipv4:1.1.1.1:1: Handshake read failed", "did not answer within 5s", true,
             true},
        Case{"UNAVAILABLE: ipv4:1.1.1.1:1: Socket closed", "connect with TLS", false},
        Case{"UNAVAILABLE: ipv4:1.1.1.1:1: Socket closed", "client certificate", false, true},
        Case{"UNKNOWN: something new", "cannot connect", false}));

TEST(ConnectionLossTest, TellsLostConnections) {
  const Endpoint endpoint = {"host:1", false, absl::Seconds(5), absl::Seconds(20)};
  const auto dead = ExplainConnectFailure(endpoint, "keepalive watchdog timeout");
  ASSERT_TRUE(dead.has_value());
  EXPECT_THAT(dead->message, HasSubstr("host:1 is dead: it did not answer a ping within 20s"));
  EXPECT_FALSE(dead->is_final);
  EXPECT_THAT(ExplainConnectFailure(endpoint, "Socket closed")->message,
              HasSubstr("closed the connection during the call"));
  EXPECT_THAT(ExplainConnectFailure(endpoint, "Too many pings")->message,
              HasSubstr("keepalive.interval"));
}

TEST(ConnectionLossTest, LeavesTheServersOwnMessagesAlone) {
  EXPECT_FALSE(ExplainConnectFailure({"host:1"}, "the server is draining").has_value());
}

}  // namespace
}  // namespace theria::client
