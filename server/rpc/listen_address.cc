#include "server/rpc/listen_address.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "kernels/api/message.h"

namespace theria::server {
namespace {

constexpr std::string_view kUnixScheme = "unix:";

// Whether somebody accepts connections at `address`.
bool IsListening(const sockaddr_un& address) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  const int result = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const bool is_listening = result == 0 || errno == EAGAIN;  // EAGAIN: its backlog is full
  close(fd);
  return is_listening;
}

// Whether a socket can be made in the folder of `path`.
absl::Status CheckFolder(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  struct stat status {};
  const char* reason = nullptr;
  if (stat(folder.c_str(), &status) != 0) {
    reason = errno == ENOENT ? "does not exist" : std::strerror(errno);
  } else if (!S_ISDIR(status.st_mode)) {
    reason = "is not a folder";
  } else if (access(folder.c_str(), W_OK | X_OK) != 0) {
    reason = errno == EACCES ? "is not writable by this user" : std::strerror(errno);
  }
  if (reason == nullptr) return absl::OkStatus();
  return absl::UnavailableError(
      Message("cannot listen on unix:", path, ": the folder ", folder, " ", reason));
}

}  // namespace

std::string UnixPath(std::string_view address) {
  if (!address.starts_with(kUnixScheme)) return "";
  return std::string(address.substr(kUnixScheme.size()));
}

std::string WithPort(std::string_view address, int port) {
  if (address.starts_with(kUnixScheme)) return std::string(address);
  return Message(address.substr(0, address.rfind(':')), ":", port);
}

absl::Status PrepareUnixPath(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::UnavailableError(Message("cannot listen on unix:", path, ": a path of 1 to ",
                                          sizeof(address.sun_path) - 1, " bytes is needed"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return CheckFolder(path);
  if (!S_ISSOCK(status.st_mode)) {
    return absl::UnavailableError(
        Message("cannot listen on unix:", path, ": a file that is no socket is in the way"));
  }
  if (IsListening(address)) {
    return absl::UnavailableError(
        Message("cannot listen on unix:", path, ": address in use by another server"));
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return absl::UnavailableError(
        Message("cannot remove the stale socket ", path, ": ", std::strerror(errno)));
  }
  return CheckFolder(path);
}

}  // namespace theria::server
