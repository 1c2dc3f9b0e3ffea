#ifndef THERIA_SERVER_CACHE_HANDLE_H_
#define THERIA_SERVER_CACHE_HANDLE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

// The name of one resident tensor: 192 random bits, drawn anew for each tensor. Nothing can be read
// from it or guessed by it, and it is never reused, so that a stale handle misses instead of
// meeting a newer tensor. Comparison takes the same time wherever two handles differ. A value.

namespace theria::server {

class Handle {
 public:
  static constexpr std::size_t kBytes = 24;

  // Errors: INTERNAL if the system's random generator fails.
  static absl::StatusOr<Handle> Random();

  // Nothing unless `text` is what ToString gives: 48 lower-case hexadecimal digits.
  static std::optional<Handle> Parse(std::string_view text);

  std::string ToString() const;

  friend bool operator==(const Handle& a, const Handle& b);

  // The bits are uniform already: any eight bytes are a hash.
  struct Hash {
    std::size_t operator()(const Handle& handle) const;
  };

 private:
  std::array<std::uint8_t, kBytes> bytes_{};
};

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_HANDLE_H_
