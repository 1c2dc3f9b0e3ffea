#ifndef THERIA_CLIENT_CPP_SRC_SHA256_H_
#define THERIA_CLIENT_CPP_SRC_SHA256_H_

#include <cstddef>
#include <string>

namespace theria::client {

// The 32 bytes of the SHA-256 digest (FIPS 180-4) of `size_bytes` bytes.
std::string Sha256(const void* data, std::size_t size_bytes);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_SHA256_H_
