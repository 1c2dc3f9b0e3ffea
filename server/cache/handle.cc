#include "server/cache/handle.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"

namespace theria::server {
namespace {

int HexDigit(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

}  // namespace

absl::StatusOr<Handle> Handle::Random() {
  Handle handle;
  if (RAND_bytes(handle.bytes_.data(), static_cast<int>(kBytes)) != 1) {
    return absl::InternalError("the random generator failed");
  }
  return handle;
}

std::optional<Handle> Handle::Parse(std::string_view text) {
  if (text.size() != 2 * kBytes) return std::nullopt;
  Handle handle;
  for (std::size_t i = 0; i < kBytes; ++i) {
    const int high = HexDigit(text[2 * i]);
    const int low = HexDigit(text[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    handle.bytes_[i] = static_cast<std::uint8_t>(high * 16 + low);
  }
  return handle;
}

std::string Handle::ToString() const {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes_.data()), kBytes));
}

bool operator==(const Handle& a, const Handle& b) {
  return CRYPTO_memcmp(a.bytes_.data(), b.bytes_.data(), Handle::kBytes) == 0;
}

std::size_t Handle::Hash::operator()(const Handle& handle) const {
  std::size_t hash;
  std::memcpy(&hash, handle.bytes_.data(), sizeof hash);
  return hash;
}

}  // namespace theria::server
