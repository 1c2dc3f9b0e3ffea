#include "server/rpc/descriptor_socket.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/api/message.h"
#include "server/cache/handle.h"
#include "server/cache/monotonic_clock.h"
#include "server/rpc/listen_address.h"

namespace theria::server {
namespace {

constexpr std::size_t kNameBytes = 2 * Handle::kBytes;
constexpr std::size_t kMaxConnections = 64;
constexpr absl::Duration kPatience = absl::Seconds(1);
constexpr absl::Duration kRest = absl::Milliseconds(100);

// For owner and group alone.
constexpr mode_t kMode = S_IRUSR | S_IWUSR | S_IRGRP | S_IWGRP;

absl::Status CannotListen(const std::string& path) {
  return absl::UnavailableError(
      Message("cannot share memory at ", path, ": ", std::strerror(errno)));
}

void SendDescriptor(int connection, int descriptor) {
  char byte = 0;
  iovec bytes = {&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
  // A client that is gone needs none.
  (void)!sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

struct DescriptorSocket::Connection {
  explicit Connection(int accepted) : descriptor(accepted), ends_at(MonotonicNow() + kPatience) {}
  Connection(Connection&& other) noexcept
      : descriptor(std::exchange(other.descriptor, -1)), ends_at(other.ends_at), name(other.name) {}
  Connection& operator=(Connection&& other) noexcept {
    std::swap(descriptor, other.descriptor);
    std::swap(ends_at, other.ends_at);
    std::swap(name, other.name);
    return *this;
  }
  ~Connection() {
    if (descriptor >= 0) close(descriptor);
  }

  int descriptor;
  absl::Duration ends_at;  // of MonotonicNow()
  std::string name;
};

absl::StatusOr<std::unique_ptr<DescriptorSocket>> DescriptorSocket::Start(const std::string& path,
                                                                          SharedRegions& regions) {
  if (absl::Status prepared = PrepareUnixPath(path); !prepared.ok()) return prepared;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0) return CannotListen(path);
  // No connection is accepted before the mode is right.
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      chmod(path.c_str(), kMode) != 0 || listen(listener, SOMAXCONN) != 0) {
    absl::Status failed = CannotListen(path);
    close(listener);
    return failed;
  }
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return std::unique_ptr<DescriptorSocket>(new DescriptorSocket(path, regions, listener, wake));
}

DescriptorSocket::DescriptorSocket(std::string path, SharedRegions& regions, int listener, int wake)
    : path_(std::move(path)),
      regions_(regions),
      listener_(listener),
      wake_(wake),
      thread_([this](const std::stop_token& stop) { Serve(stop); }) {}

DescriptorSocket::~DescriptorSocket() {
  thread_.request_stop();
  eventfd_write(wake_, 1);
  thread_.join();
  unlink(path_.c_str());
  close(listener_);
  close(wake_);
}

void DescriptorSocket::Serve(const std::stop_token& stop) {
  std::vector<Connection> connections;
  std::vector<pollfd> polled;
  while (!stop.stop_requested()) {
    // At the limit new ones wait in the backlog.
    const bool is_full = connections.size() >= kMaxConnections;
    polled = {{wake_, POLLIN, 0}, {is_full ? -1 : listener_, POLLIN, 0}};
    for (const Connection& connection : connections) {
      polled.push_back({connection.descriptor, POLLIN, 0});
    }
    const int timeout_ms = connections.empty() ? -1 : 100;
    if (poll(polled.data(), polled.size(), timeout_ms) < 0) continue;
    const absl::Duration now = MonotonicNow();
    std::vector<Connection> waiting;
    for (std::size_t i = 0; i < connections.size(); ++i) {
      const bool is_ready = polled[i + 2].revents != 0;
      const bool stays = is_ready ? Advance(connections[i]) : connections[i].ends_at > now;
      if (stays) waiting.push_back(std::move(connections[i]));
    }
    connections = std::move(waiting);
    if ((polled[1].revents & POLLIN) == 0) continue;
    const int accepted = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (accepted >= 0) {
      connections.emplace_back(accepted);
    } else if (errno == EMFILE || errno == ENFILE) {
      absl::SleepFor(kRest);  // until somebody closes a descriptor
    }
  }
}

bool DescriptorSocket::Advance(Connection& connection) {
  std::array<char, kNameBytes> buffer;
  const std::size_t wanted = kNameBytes - connection.name.size();
  const ssize_t received = recv(connection.descriptor, buffer.data(), wanted, 0);
  if (received < 0) return errno == EAGAIN || errno == EINTR;
  connection.name.append(buffer.data(), static_cast<std::size_t>(received));
  if (received == 0 || connection.name.size() == kNameBytes) {
    Answer(connection);
    return false;
  }
  return true;
}

void DescriptorSocket::Answer(const Connection& connection) {
  const SharedRegionPtr region = regions_.OfName(connection.name);
  if (region != nullptr && region->descriptor() >= 0) {
    SendDescriptor(connection.descriptor, region->descriptor());
  }
}

}  // namespace theria::server
