#include "server/rpc/server_tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <ctime>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "kernels/api/message.h"
#include "prometheus/registry.h"
#include "server/telemetry/log.h"

namespace theria::server {
namespace {

constexpr unsigned int kRefreshSeconds = 1;
constexpr absl::Duration kExpiresSoon = absl::Hours(24 * 7);

struct Deleter {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
template <typename T>
using Owned = std::unique_ptr<T, Deleter>;
using Certificates = std::vector<Owned<X509>>;

// What OpenSSL says to the last call that failed.
std::string LastError() {
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  return reason != nullptr ? reason : "OpenSSL refuses it";
}

Owned<BIO> Reader(const std::string& text) {
  return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// All certificates of the file, one at least.
absl::StatusOr<Certificates> ReadCertificates(std::string_view flag, const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(flag, path);
  if (!text.ok()) return text.status();
  const Owned<BIO> reader = Reader(*text);
  Certificates certificates;
  ERR_clear_error();
  while (X509* const next = PEM_read_bio_X509(reader.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(next);
  }
  const bool is_at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (!is_at_end) return WrongFile(flag, path, Message("is broken PEM: ", LastError()));
  if (certificates.empty()) return WrongFile(flag, path, "holds no certificate");
  return certificates;
}

absl::StatusOr<Owned<EVP_PKEY>> ReadKey(std::string_view flag, const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(flag, path);
  if (!text.ok()) return text.status();
  // An empty passphrase: nobody is there to be asked for one.
  Owned<EVP_PKEY> key(
      PEM_read_bio_PrivateKey(Reader(*text).get(), nullptr, nullptr, const_cast<char*>("")));
  if (key == nullptr) return WrongFile(flag, path, "holds no unencrypted key");
  return key;
}

// Whether a listener can be made of them, by what gRPC will ask of OpenSSL.
absl::Status CheckPair(const TlsFiles& files, const Certificates& chain, EVP_PKEY* key) {
  if (X509_check_private_key(chain.front().get(), key) != 1) {
    return WrongFile("tls-key", files.private_key, "is not the key of the certificate");
  }
  ERR_clear_error();
  const Owned<SSL_CTX> context(SSL_CTX_new(TLS_server_method()));
  bool is_taken = context != nullptr &&
                  SSL_CTX_use_certificate(context.get(), chain.front().get()) == 1 &&
                  SSL_CTX_use_PrivateKey(context.get(), key) == 1;
  for (std::size_t i = 1; i < chain.size() && is_taken; ++i) {
    is_taken = SSL_CTX_add1_chain_cert(context.get(), chain[i].get()) == 1;
  }
  if (is_taken) return absl::OkStatus();
  return WrongFile("tls-cert", files.certificate, Message("cannot serve: ", LastError()));
}

// As PEM, the key first if there is one.
std::string Encode(EVP_PKEY* key, const Certificates& certificates) {
  const Owned<BIO> writer(BIO_new(BIO_s_mem()));
  if (key != nullptr) {
    PEM_write_bio_PrivateKey(writer.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  }
  for (const Owned<X509>& certificate : certificates) {
    PEM_write_bio_X509(writer.get(), certificate.get());
  }
  char* data = nullptr;
  const long size_bytes = BIO_get_mem_data(writer.get(), &data);
  return {data, static_cast<std::size_t>(size_bytes)};
}

// When the first of them ends. Warns of each that does soon.
absl::Time FirstExpiry(const std::string& path, const Certificates& certificates) {
  const absl::Time now = absl::Now();
  absl::Time first = absl::InfiniteFuture();
  for (const Owned<X509>& certificate : certificates) {
    std::tm end{};
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &end) != 1) continue;
    const absl::Time expires = absl::FromTM(end, absl::UTCTimeZone());
    first = std::min(first, expires);
    if (expires > now + kExpiresSoon) continue;
    LogLine(spdlog::level::warn,
            expires <= now ? "certificate expired" : "certificate expires soon")
        .Add("file", path)
        .Add("expires", absl::FormatTime(absl::RFC3339_sec, expires, absl::UTCTimeZone()));
  }
  return first;
}

}  // namespace

ServerTls::ServerTls(TlsFiles files, MetricRegistry& registry)
    : files_(std::move(files)),
      not_after_seconds_(prometheus::BuildGauge()
                             .Name("theria_tls_certificate_not_after_seconds")
                             .Help("Unix time at which the first certificate of the file ends.")
                             .Register(registry.families())) {}

absl::StatusOr<std::unique_ptr<ServerTls>> ServerTls::Open(const TlsFiles& files,
                                                           MetricRegistry& registry) {
  std::unique_ptr<ServerTls> tls(new ServerTls(files, registry));
  if (files.certificate.empty()) {
    tls->credentials_ = grpc::InsecureServerCredentials();
    return tls;
  }
  const absl::StatusOr<bool> read = tls->Refresh();
  if (!read.ok()) return read.status();
  const bool has_client_ca = !files.client_ca.empty();
  const std::string pair = tls->pair_.path();
  using grpc::experimental::FileWatcherCertificateProvider;
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<FileWatcherCertificateProvider>(
          pair, pair, has_client_ca ? tls->client_ca_.path() : "", kRefreshSeconds));
  options.watch_identity_key_cert_pairs();
  if (has_client_ca) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  tls->credentials_ = grpc::experimental::TlsServerCredentials(options);
  return tls;
}

absl::StatusOr<bool> ServerTls::Refresh() {
  if (files_.certificate.empty()) return false;
  const std::array<FileVersion, 3> versions = {
      VersionOf(files_.certificate), VersionOf(files_.private_key), VersionOf(files_.client_ca)};
  if (versions == versions_) return false;
  versions_ = versions;  // also of files that are refused: they are reported once
  absl::Status loaded = Load();
  if (!loaded.ok()) return loaded;
  return true;
}

absl::Status ServerTls::Load() {
  const absl::StatusOr<Certificates> chain = ReadCertificates("tls-cert", files_.certificate);
  if (!chain.ok()) return chain.status();
  const absl::StatusOr<Owned<EVP_PKEY>> key = ReadKey("tls-key", files_.private_key);
  if (!key.ok()) return key.status();
  if (absl::Status usable = CheckPair(files_, *chain, key->get()); !usable.ok()) return usable;
  Certificates client_ca;
  if (!files_.client_ca.empty()) {
    absl::StatusOr<Certificates> read = ReadCertificates("tls-client-ca", files_.client_ca);
    if (!read.ok()) return read.status();
    client_ca = *std::move(read);
  }
  absl::Status published = pair_.Publish(Encode(key->get(), *chain));
  if (!client_ca.empty()) published.Update(client_ca_.Publish(Encode(nullptr, client_ca)));
  if (!published.ok()) return published;
  const auto tell_expiry = [this](const char* flag, const std::string& path,
                                  const Certificates& certificates) {
    const absl::Time expiry = FirstExpiry(path, certificates);
    not_after_seconds_.Add({{"flag", flag}}).Set(absl::ToDoubleSeconds(expiry - absl::UnixEpoch()));
  };
  tell_expiry("tls-cert", files_.certificate, *chain);
  if (!client_ca.empty()) tell_expiry("tls-client-ca", files_.client_ca, client_ca);
  return absl::OkStatus();
}

}  // namespace theria::server
