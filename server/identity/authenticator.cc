#include "server/identity/authenticator.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "kernels/api/message.h"
#include "server/cache/sha256.h"
#include "server/identity/tenants_file.h"

namespace theria::server {
namespace {

constexpr std::string_view kScheme = "Bearer ";
constexpr std::size_t kMaxTokenBytes = 4096;

// What the caller is told of a token or certificate that counts for nobody, whatever the reason.
absl::Status NotKnown() {
  return absl::UnauthenticatedError("the credentials are not those of a tenant, or have expired");
}

absl::StatusOr<Sha256Digest> DigestOf(std::string_view token) {
  Sha256 sha256;
  sha256.Update(token.data(), token.size());
  return sha256.Finish();
}

}  // namespace

struct Authenticator::Directory {
  struct Token {
    Account* account;
    absl::Time expires;
  };
  absl::flat_hash_map<Sha256Digest, Token> tokens;
  absl::flat_hash_map<std::string, Account*> certificates;
};

Authenticator::Authenticator() : Authenticator("", {}, {}) {
  accounts_[""] = std::make_unique<Account>();
}

Authenticator::Authenticator(std::string path, OnLimits on_limits, WallClock clock)
    : path_(std::move(path)),
      on_limits_(std::move(on_limits)),
      clock_(clock ? std::move(clock) : absl::Now),
      directory_(std::make_shared<Directory>()) {}

Authenticator::~Authenticator() = default;

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::Open(const std::string& tenants_file,
                                                                   OnLimits on_limits,
                                                                   WallClock clock) {
  std::unique_ptr<Authenticator> authenticator(
      new Authenticator(tenants_file, std::move(on_limits), std::move(clock)));
  const absl::StatusOr<bool> read = authenticator->Refresh();
  if (!read.ok()) return read.status();
  return authenticator;
}

absl::StatusOr<Account*> Authenticator::Authenticate(const Credentials& credentials) const {
  std::shared_ptr<const Directory> directory;
  {
    const std::lock_guard lock(mutex_);
    if (!has_tenants()) return accounts_.begin()->second.get();
    directory = directory_;
  }
  if (!credentials.authorization.empty()) {
    std::string_view token = credentials.authorization.front();
    if (credentials.authorization.size() > 1 || token.size() > kMaxTokenBytes ||
        !absl::StartsWithIgnoreCase({token.data(), token.size()},
                                    {kScheme.data(), kScheme.size()})) {
      refused_logins_.Add(LoginRefusal::kMalformed, credentials.peer);
      return absl::UnauthenticatedError("the authorization must be one of the form: Bearer TOKEN");
    }
    token.remove_prefix(kScheme.size());
    const absl::StatusOr<Sha256Digest> digest = DigestOf(token);
    if (!digest.ok()) return digest.status();
    const auto found = directory->tokens.find(*digest);
    if (found == directory->tokens.end()) {
      refused_logins_.Add(LoginRefusal::kUnknownToken, credentials.peer);
      return NotKnown();
    }
    const auto [account, expires] = found->second;
    if (clock_() >= expires) {
      refused_logins_.Add(LoginRefusal::kExpiredToken, credentials.peer, account->tenant().name);
      return NotKnown();
    }
    return account;
  }
  if (credentials.certificate.empty()) {
    refused_logins_.Add(LoginRefusal::kNoCredentials, credentials.peer);
    return absl::UnauthenticatedError(
        "no credentials came: send the metadata authorization: Bearer TOKEN, or a certificate");
  }
  for (const std::string_view name : credentials.certificate) {
    const auto found = directory->certificates.find(std::string(name));
    if (found != directory->certificates.end()) return found->second;
  }
  refused_logins_.Add(LoginRefusal::kUnknownCertificate, credentials.peer,
                      credentials.certificate.front());
  return NotKnown();
}

absl::StatusOr<bool> Authenticator::Refresh() {
  if (!has_tenants()) return false;
  const FileVersion version = VersionOf(path_);
  {
    const std::lock_guard lock(mutex_);
    if (version == version_) return false;
    version_ = version;  // also of a file that is refused: it is reported once
  }
  absl::Status loaded = Load();
  if (!loaded.ok()) return loaded;
  return true;
}

absl::Status Authenticator::Load() {
  const absl::StatusOr<std::string> text = ReadFile("tenants", path_);
  if (!text.ok()) return text.status();
  const absl::StatusOr<std::vector<TenantEntry>> tenants = ParseTenants(*text);
  if (!tenants.ok()) {
    return WrongFile("tenants", path_, Message("is wrong: ", tenants.status().message()));
  }
  auto directory = std::make_shared<Directory>();
  std::vector<Account*> changed;
  const std::lock_guard lock(mutex_);
  for (const TenantEntry& tenant : *tenants) {
    std::unique_ptr<Account>& account = accounts_[tenant.name];
    if (account == nullptr) {
      account = std::make_unique<Account>(TenantId{tenant.name}, tenant.limits);
      changed.push_back(account.get());
    } else if (account->limits() != tenant.limits) {
      account->SetLimits(tenant.limits);
      changed.push_back(account.get());
    }
    for (const TokenEntry& token : tenant.tokens) {
      directory->tokens[token.sha256] = {account.get(), token.expires};
    }
    for (const std::string& name : tenant.certificates) {
      directory->certificates[name] = account.get();
    }
  }
  for (const Account* account : changed) on_limits_(*account);
  directory_ = std::move(directory);
  return absl::OkStatus();
}

std::vector<const Account*> Authenticator::accounts() const {
  const std::lock_guard lock(mutex_);
  std::vector<const Account*> accounts;
  for (const auto& [name, account] : accounts_) accounts.push_back(account.get());
  return accounts;
}

}  // namespace theria::server
