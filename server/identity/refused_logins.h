#ifndef THERIA_SERVER_IDENTITY_REFUSED_LOGINS_H_
#define THERIA_SERVER_IDENTITY_REFUSED_LOGINS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "absl/time/time.h"

// Calls that were refused for their credentials: counts all of them, and tells of them in the log
// so that a client that tries again and again does not fill it. Of each host the first is told at
// once, `event="login refused"`, and how many followed once a minute while they do,
// `event="logins refused"`; hosts beyond kMaxHosts at a time count as one. Thread-safe.

namespace theria::server {

// The label of the metric, and what the log says.
enum class LoginRefusal : std::uint8_t {
  kNoCredentials,
  kMalformed,  // an authorization that is no bearer token, or two of them
  kUnknownToken,
  kExpiredToken,
  kUnknownCertificate,  // verified, and of no tenant
};
inline constexpr std::size_t kLoginRefusals = 5;
std::string_view LoginRefusalName(LoginRefusal refusal);  // "no_credentials", "malformed", ...

class RefusedLogins {
 public:
  using Clock = std::function<absl::Duration()>;  // monotonic; a test injects its own

  static constexpr absl::Duration kInterval = absl::Minutes(1);
  static constexpr std::size_t kMaxHosts = 100;

  explicit RefusedLogins(Clock clock = {});

  // `peer` as gRPC writes it ("ipv4:10.0.0.7:51234"), of which the port does not count: each
  // connection has another. `whose`, if it is known: the token's tenant or the certificate's name.
  void Add(LoginRefusal refusal, std::string_view peer, std::string_view whose = "");

  // Tells how many followed of each host whose minute is over. Called every second or so.
  void TellWhatFollowed();

  std::uint64_t count(LoginRefusal refusal) const {
    return counts_[static_cast<std::size_t>(refusal)].load(std::memory_order_relaxed);
  }

 private:
  struct Host {
    absl::Duration told_at;
    std::uint64_t followed = 0;  // since then
  };

  const Clock clock_;
  std::array<std::atomic<std::uint64_t>, kLoginRefusals> counts_{};
  std::mutex mutex_;
  std::map<std::string, Host, std::less<>> hosts_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_IDENTITY_REFUSED_LOGINS_H_
