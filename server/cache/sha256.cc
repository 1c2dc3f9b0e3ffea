#include "server/cache/sha256.h"

#include <openssl/evp.h>

#include "absl/status/status.h"

namespace theria::server {

void Sha256::ContextDeleter::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  ok_ = context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
}

void Sha256::Update(const void* data, std::size_t size_bytes) {
  ok_ = ok_ && EVP_DigestUpdate(context_.get(), data, size_bytes) == 1;
}

absl::StatusOr<Sha256Digest> Sha256::Finish() {
  Sha256Digest digest;
  ok_ = ok_ && EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1;
  if (!ok_) return absl::InternalError("the cryptographic library cannot compute SHA-256");
  return digest;
}

}  // namespace theria::server
