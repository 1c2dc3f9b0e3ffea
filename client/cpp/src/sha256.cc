#include "client/cpp/src/sha256.h"

#include <openssl/sha.h>

namespace theria::client {

std::string Sha256(const void* data, std::size_t size_bytes) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(static_cast<const unsigned char*>(data), size_bytes,
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

}  // namespace theria::client
