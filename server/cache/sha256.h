#ifndef THERIA_SERVER_CACHE_SHA256_H_
#define THERIA_SERVER_CACHE_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

// SHA-256 (FIPS 180-4) of bytes that come piece by piece. Not thread-safe.

struct evp_md_ctx_st;

namespace theria::server {

using Sha256Digest = std::array<std::uint8_t, 32>;

class Sha256 {
 public:
  Sha256();

  void Update(const void* data, std::size_t size_bytes);

  // The digest of all that was given. Call once.
  // Errors: INTERNAL if the cryptographic library failed on the way.
  absl::StatusOr<Sha256Digest> Finish();

 private:
  struct ContextDeleter {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, ContextDeleter> context_;
  bool ok_ = false;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_SHA256_H_
