#include "server/rpc/server_tls.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <string_view>

#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "kernels/api/message.h"

namespace theria::server {
namespace {

constexpr unsigned int kRefreshSeconds = 1;

struct Deleter {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
template <typename T>
using Owned = std::unique_ptr<T, Deleter>;

absl::Status Wrong(std::string_view flag, const std::string& path, std::string_view what) {
  return absl::InvalidArgumentError(Message("--", flag, " is '", path, "', which ", what));
}

Owned<X509> ReadCertificate(const std::string& path) {
  const Owned<BIO> file(BIO_new_file(path.c_str(), "r"));
  if (file == nullptr) return nullptr;
  return Owned<X509>(PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr));
}

Owned<EVP_PKEY> ReadKey(const std::string& path) {
  const Owned<BIO> file(BIO_new_file(path.c_str(), "r"));
  if (file == nullptr) return nullptr;
  // An empty passphrase: nobody is there to be asked for one.
  return Owned<EVP_PKEY>(
      PEM_read_bio_PrivateKey(file.get(), nullptr, nullptr, const_cast<char*>("")));
}

absl::Status Check(const TlsFiles& files) {
  const Owned<X509> certificate = ReadCertificate(files.certificate);
  if (certificate == nullptr) return Wrong("tls-cert", files.certificate, "holds no certificate");
  const Owned<EVP_PKEY> key = ReadKey(files.private_key);
  if (key == nullptr) return Wrong("tls-key", files.private_key, "holds no unencrypted key");
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Wrong("tls-key", files.private_key, "is not the key of the certificate");
  }
  if (!files.client_ca.empty() && ReadCertificate(files.client_ca) == nullptr) {
    return Wrong("tls-client-ca", files.client_ca, "holds no certificate");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files) {
  if (files.certificate.empty()) return grpc::InsecureServerCredentials();
  if (absl::Status usable = Check(files); !usable.ok()) return usable;
  using grpc::experimental::FileWatcherCertificateProvider;
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<FileWatcherCertificateProvider>(files.private_key, files.certificate,
                                                       files.client_ca, kRefreshSeconds));
  options.watch_identity_key_cert_pairs();
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace theria::server
