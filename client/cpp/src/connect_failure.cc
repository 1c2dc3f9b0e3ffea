#include "client/cpp/src/connect_failure.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace theria::client {
namespace {

// A cause, recognised by any of `marks` in gRPC's message in lower case.
struct Cause {
  std::vector<absl::string_view> marks;
  std::string explanation;
  bool is_final = false;
};

std::string ClosedTooEarly(const Endpoint& endpoint) {
  return endpoint.uses_tls
             ? absl::StrCat(endpoint.target,
                            " closed the connection during the TLS handshake; if it asks for a "
                            "client certificate, set cert_file and key_file (--tls-cert, "
                            "--tls-key)")
             : absl::StrCat(endpoint.target,
                            " closed the connection before it said anything; if the server uses "
                            "TLS, connect with TLS (ClientOptions::tls, --tls)");
}

// Of connections that were not made.
std::vector<Cause> ConnectCauses(const Endpoint& endpoint) {
  const std::string& target = endpoint.target;
  return {
      {{"dns resolution failed", "errors resolving"},
       absl::StrCat("the host of ", target, " cannot be resolved")},
      {{"connection refused"},
       absl::StrCat("no server listens at ", target,
                    "; check that theria-server runs there, and the port")},
      {{"no such file or directory"},
       absl::StrCat("there is no socket at ", target,
                    "; check that theria-server runs with --listen ", target)},
      {{"permission denied"}, absl::StrCat("this user may not connect to ", target), true},
      {{"network is unreachable", "no route to host"},
       absl::StrCat("no network route leads to ", target)},
      {{"wrong version number"},
       absl::StrCat(target, " does not speak TLS; connect without TLS, or check the port"),
       true},
      {{"certificate verify failed"},
       absl::StrCat("the certificate of ", target,
                    " is not trusted; set ca_file (--tls-ca) to its authority's certificate"),
       true},
      {{"not in peer certificate", "hostname verification"},
       absl::StrCat("the certificate of ", target,
                    " is for another name; set server_name (--tls-server-name) to that name"),
       true},
      {{"http1", "failed parsing http/2"},
       absl::StrCat(target, " speaks HTTP/1, not gRPC; check the port (is it --metrics-listen?)"),
       true},
      {{"timed out", "handshake read failed", "endpoint closing", "timeout occurred"},
       absl::StrCat(target, " did not answer within ",
                    absl::FormatDuration(endpoint.connect_timeout),
                    "; check the address, and that a firewall lets the port through"),
       true},
      {{"socket closed", "connection reset", "broken pipe"}, ClosedTooEarly(endpoint)},
      {{""}, absl::StrCat("cannot connect to ", target)},
  };
}

// Of connections that were lost during a call.
std::vector<Cause> LossCauses(const Endpoint& endpoint) {
  const std::string& target = endpoint.target;
  return {
      {{"keepalive", "ping timeout"},
       absl::StrCat("the connection to ", target, " is dead: it did not answer a ping within ",
                    absl::FormatDuration(endpoint.keepalive_timeout))},
      {{"too many pings"},
       absl::StrCat(target,
                    " refuses this client's keepalive pings as too frequent; raise "
                    "keepalive.interval")},
      {{"socket closed", "connection reset", "broken pipe"},
       absl::StrCat(target, " closed the connection during the call; the server may have ended")},
  };
}

}  // namespace

std::optional<ConnectFailure> ExplainConnectFailure(const Endpoint& endpoint,
                                                    const std::string& grpc_message) {
  std::string text = absl::AsciiStrToLower(grpc_message);
  std::replace(text.begin(), text.end(), '_', ' ');
  const bool was_connecting = absl::StartsWith(text, "failed to connect to all addresses") ||
                              absl::StartsWith(text, "dns resolution failed") ||
                              absl::StartsWith(text, "errors resolving");
  absl::string_view reason = grpc_message;
  absl::ConsumePrefix(&reason, "failed to connect to all addresses; last error: ");
  for (const Cause& cause : was_connecting ? ConnectCauses(endpoint) : LossCauses(endpoint)) {
    for (const absl::string_view mark : cause.marks) {
      if (!absl::StrContains(text, mark)) continue;
      return ConnectFailure{absl::StrCat(cause.explanation, " (", reason, ")"), cause.is_final};
    }
  }
  return std::nullopt;
}

}  // namespace theria::client
