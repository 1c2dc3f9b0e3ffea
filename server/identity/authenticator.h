#ifndef THERIA_SERVER_IDENTITY_AUTHENTICATOR_H_
#define THERIA_SERVER_IDENTITY_AUTHENTICATOR_H_

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/engine/account.h"
#include "server/identity/read_file.h"
#include "server/identity/refused_logins.h"

// Turns what a caller shows into the Account that he acts for. Without a tenants file everyone is
// the default tenant. Thread-safe.

namespace theria::server {

// What came with one call.
struct Credentials {
  std::vector<std::string_view> authorization;  // values of that header
  std::vector<std::string_view> certificate;    // names in the client's certificate, verified
  std::string_view peer = {};                   // for the log alone, as gRPC writes it
};

class Authenticator {
 public:
  // Called with each account when its limits are known, and again when they change.
  using OnLimits = std::function<void(const Account&)>;
  using WallClock = std::function<absl::Time()>;

  // Everyone is the default tenant, whose limits are the server's.
  Authenticator();

  // Errors: INVALID_ARGUMENT, naming --tenants: the file cannot be read, or ParseTenants refuses
  // it.
  static absl::StatusOr<std::unique_ptr<Authenticator>> Open(const std::string& tenants_file,
                                                             OnLimits on_limits,
                                                             WallClock clock = {});

  ~Authenticator();

  // A token, where one is shown, decides alone; else the certificate does. The account lives as
  // long as this. Errors: UNAUTHENTICATED, with the same message for all that is unknown; counted
  // and told by refused_logins().
  absl::StatusOr<Account*> Authenticate(const Credentials& credentials) const;

  // Reads the file again if it changed since the last time: the new tenants, tokens and limits hold
  // from the next call on. Returns whether it did. Errors: as Open's; the old ones then stay.
  absl::StatusOr<bool> Refresh();

  bool has_tenants() const { return !path_.empty(); }

  RefusedLogins& refused_logins() const { return refused_logins_; }

  // Every account that there ever was, by name.
  std::vector<const Account*> accounts() const;

 private:
  struct Directory;

  Authenticator(std::string path, OnLimits on_limits, WallClock clock);
  absl::Status Load();

  const std::string path_;
  const OnLimits on_limits_;
  const WallClock clock_;

  mutable std::mutex mutex_;
  std::map<std::string, std::unique_ptr<Account>> accounts_;
  std::shared_ptr<const Directory> directory_;  // replaced as a whole
  FileVersion version_;

  mutable RefusedLogins refused_logins_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_IDENTITY_AUTHENTICATOR_H_
