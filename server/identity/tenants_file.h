#ifndef THERIA_SERVER_IDENTITY_TENANTS_FILE_H_
#define THERIA_SERVER_IDENTITY_TENANTS_FILE_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/cache/sha256.h"
#include "server/engine/account.h"

// The file of --tenants: who may call, how he proves it, and how much he may use. JSON:
//
//     {"tenants": {
//       "physics": {
//         "tokens": [{"sha256": "<64 hexadecimal digits>", "expires": "2027-01-31T00:00:00Z"}],
//         "certificates": ["physics.example.org"],
//         "store_bytes": "4GiB",
//         "queued_requests": 64, "queued_bytes": "512MiB",
//         "requests_per_second": 200, "burst_requests": 400,
//         "weight": 2
//       }
//     }}
//
// `tokens` and `certificates` may be left out, not both; all else too, which leaves the server's
// limits. The file holds a token's SHA-256, never the token; it should have 128 random bits or
// more. `expires` may be left out. A certificate's name is one of its subject's alternative names,
// or its common name. Bytes are a number, or one with KiB, MiB, GiB or TiB. Keys that are not named
// here are errors, and so are keys that stand twice in an object.

namespace theria::server {

struct TokenEntry {
  Sha256Digest sha256{};
  absl::Time expires = absl::InfiniteFuture();
};

struct TenantEntry {
  std::string name;  // 1 to 64 of a-z, A-Z, 0-9, '-', '_', '.'
  AccountLimits limits;
  std::vector<TokenEntry> tokens;
  std::vector<std::string> certificates;
};

// At most so many tenants, which are labels of metrics.
inline constexpr std::size_t kMaxTenants = 1000;

// Errors: INVALID_ARGUMENT, saying what is wrong where ("tenants.physics.weight is ..."); a token
// or a certificate of two tenants is wrong too.
absl::StatusOr<std::vector<TenantEntry>> ParseTenants(std::string_view json);

}  // namespace theria::server

#endif  // THERIA_SERVER_IDENTITY_TENANTS_FILE_H_
