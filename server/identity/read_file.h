#ifndef THERIA_SERVER_IDENTITY_READ_FILE_H_
#define THERIA_SERVER_IDENTITY_READ_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Files that flags name, and that are read again when they change.

namespace theria::server {

// Tells the contents of a path apart, without reading them. A path that leads nowhere has a version
// too.
struct FileVersion {
  std::int64_t device = -1, inode = -1, size_bytes = -1, seconds = -1, nanoseconds = -1;
  friend bool operator==(const FileVersion&, const FileVersion&) = default;
};

FileVersion VersionOf(const std::string& path);

// INVALID_ARGUMENT: "--FLAG is 'PATH', which WHAT".
absl::Status WrongFile(std::string_view flag, const std::string& path, std::string_view what);

// A larger file is none of ours. Reading stops there.
inline constexpr std::size_t kMaxFileBytes = std::size_t{4} << 20;

// The bytes of a regular file. Never waits for anybody: a named pipe is refused, not opened for
// good. Errors: WrongFile with what the system says (no such file, permission denied), or that it
// is not a regular file, or has more than kMaxFileBytes.
absl::StatusOr<std::string> ReadFile(std::string_view flag, const std::string& path);

}  // namespace theria::server

#endif  // THERIA_SERVER_IDENTITY_READ_FILE_H_
