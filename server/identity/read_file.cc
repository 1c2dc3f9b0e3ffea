#include "server/identity/read_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "kernels/api/message.h"

namespace theria::server {
namespace {

absl::Status Unread(std::string_view flag, const std::string& path, int error) {
  return WrongFile(flag, path, Message("cannot be read: ", std::generic_category().message(error)));
}

}  // namespace

FileVersion VersionOf(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return {.size_bytes = -2};
  return {static_cast<std::int64_t>(status.st_dev), static_cast<std::int64_t>(status.st_ino),
          status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

absl::Status WrongFile(std::string_view flag, const std::string& path, std::string_view what) {
  return absl::InvalidArgumentError(Message("--", flag, " is '", path, "', which ", what));
}

absl::StatusOr<std::string> ReadFile(std::string_view flag, const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return Unread(flag, path, errno);
  std::string text;
  std::array<char, 4096> block{};
  ssize_t count = 0;
  while ((count = read(descriptor, block.data(), block.size())) != 0) {
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) break;
    text.append(block.data(), static_cast<std::size_t>(count));
  }
  const int error = errno;
  close(descriptor);
  if (count < 0) return Unread(flag, path, error);
  return text;
}

}  // namespace theria::server
