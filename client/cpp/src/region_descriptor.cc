#include "client/cpp/src/region_descriptor.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "client/cpp/src/text.h"

namespace theria::client {
namespace {

// Of each step, within the call's deadline; the server answers at once, or cuts us after a second.
constexpr absl::Duration kPatience = absl::Seconds(5);

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  int value() const { return value_; }

 private:
  int value_;
};

absl::Status Unreachable(const std::string& path, int error) {
  return absl::UnavailableError(
      Text("cannot get shared memory at ", path, ": ", std::strerror(error)));
}

absl::Status NotGiven(const std::string& path) {
  return absl::InternalError(Text("the server gave no shared memory at ", path));
}

// REQUIRES: the message holds at most one descriptor.
int DescriptorOf(msghdr& message) {
  int descriptor = -1;
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
      header->cmsg_len == CMSG_LEN(sizeof(int))) {
    std::memcpy(&descriptor, CMSG_DATA(header), sizeof(int));
  }
  return descriptor;
}

template <typename Step>
auto Uninterrupted(Step step) {
  auto result = step();
  while (result < 0 && errno == EINTR) result = step();
  return result;
}

absl::StatusOr<Descriptor> ReceiveDescriptor(const std::string& path, const std::string& name,
                                             absl::Duration timeout) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) return NotGiven(path);
  std::memcpy(address.sun_path, path.data(), path.size());
  const Descriptor connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connection.value() < 0) return Unreachable(path, errno);
  const timeval patience = absl::ToTimeval(timeout);
  setsockopt(connection.value(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  setsockopt(connection.value(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));

  // A name is far shorter than the socket's buffer, so that it goes as a whole.
  char byte = 0;
  iovec bytes = {&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (Uninterrupted([&] {
        return connect(connection.value(), reinterpret_cast<const sockaddr*>(&address),
                       sizeof(address));
      }) != 0 ||
      Uninterrupted(
          [&] { return send(connection.value(), name.data(), name.size(), MSG_NOSIGNAL); }) < 0 ||
      Uninterrupted([&] { return recvmsg(connection.value(), &message, MSG_CMSG_CLOEXEC); }) < 0) {
    return Unreachable(path, errno);
  }
  Descriptor descriptor(DescriptorOf(message));
  if (descriptor.value() < 0) return NotGiven(path);
  return descriptor;
}

}  // namespace

absl::StatusOr<std::shared_ptr<SharedRegion::State>> MapRegion(const v1::RegionInfo& info,
                                                               absl::Time deadline) {
  const absl::Duration left = deadline - absl::Now();
  if (left < absl::Milliseconds(1)) return absl::DeadlineExceededError("no time to map the region");
  const absl::StatusOr<Descriptor> descriptor =
      ReceiveDescriptor(info.socket(), info.name(), std::min(left, kPatience));
  if (!descriptor.ok()) return descriptor.status();
  return SharedRegion::State::Map(info.name(), descriptor->value(), info.size_bytes());
}

}  // namespace theria::client
