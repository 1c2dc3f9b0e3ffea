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

struct Descriptor {
  explicit Descriptor(int opened) : number(opened) {}
  ~Descriptor() {
    if (number >= 0) close(number);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  const int number;
};

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
  // Without O_NONBLOCK, opening a named pipe waits for a writer.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status {};
  if (file.number < 0 || fstat(file.number, &status) != 0) return Unread(flag, path, errno);
  if (S_ISDIR(status.st_mode)) return Unread(flag, path, EISDIR);
  if (!S_ISREG(status.st_mode)) return WrongFile(flag, path, "is not a regular file");
  std::string text;
  std::array<char, 4096> block{};
  while (text.size() <= kMaxFileBytes) {
    const ssize_t count = read(file.number, block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Unread(flag, path, errno);
    if (count == 0) return text;
    text.append(block.data(), static_cast<std::size_t>(count));
  }
  return WrongFile(flag, path, Message("has more than ", kMaxFileBytes, " bytes"));
}

}  // namespace theria::server
