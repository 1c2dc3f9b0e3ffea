// The socket that gives descriptors of shared memory, of this process: the input is a script for
// connections that are open together. Each step is two bytes and what they announce:
//
//     0 n   n bytes follow, sent as they are
//     1 n   the name of Known's region of index n % 4 is sent
//     2 n   the first n % 48 bytes of the name of region a are sent
//     3 n   a connection is opened; what follows goes there
//     4 n   the client closes the last connection
//
// In the end each client ends his side and reads. He gets one byte with a descriptor of the
// region's size, if the first 48 bytes that he sent are the name of a region of the host's, and
// nothing else otherwise.

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/rpc/descriptor_socket.h"
#include "tests/fuzz/expect.h"
#include "tests/fuzz/known.h"
#include "tests/unit/server/fake_device.h"

namespace theria::server {
namespace {

constexpr std::size_t kNameBytes = 48;
constexpr std::size_t kMaxConnections = 8;

class Client {
 public:
  explicit Client(const std::string& path) : descriptor_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    THERIA_FUZZ_EXPECT(
        connect(descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    // Past every delay of the server's.
    const timeval patience = {10, 0};
    setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }
  Client(Client&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)), sent_(std::move(other.sent_)) {}
  ~Client() {
    if (descriptor_ >= 0) close(descriptor_);
  }

  // The server reads no more when it has the name; the rest may find the connection closed.
  void Send(const std::string& bytes) {
    const ssize_t count = send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    THERIA_FUZZ_EXPECT(count == static_cast<ssize_t>(bytes.size()) || sent_.size() >= kNameBytes);
    sent_ += bytes;
  }

  // The name by the server's rule.
  std::string name() const { return sent_.substr(0, kNameBytes); }

  // The size of the file whose descriptor comes, or nothing.
  std::optional<std::size_t> Receive() {
    shutdown(descriptor_, SHUT_WR);
    std::array<char, 16> buffer;
    iovec bytes = {buffer.data(), buffer.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    ssize_t count = -1;
    do {
      count = recvmsg(descriptor_, &message, MSG_CMSG_CLOEXEC);
    } while (count < 0 && errno == EINTR);  // libFuzzer's timer
    if (count <= 0) {
      // The end, or what closing with bytes unread is; not that nothing came for so long.
      THERIA_FUZZ_EXPECT(count == 0 || errno == ECONNRESET);
      return std::nullopt;
    }
    const cmsghdr* const header = CMSG_FIRSTHDR(&message);
    THERIA_FUZZ_EXPECT(count == 1 && header != nullptr);
    THERIA_FUZZ_EXPECT(header->cmsg_type == SCM_RIGHTS);
    THERIA_FUZZ_EXPECT(header->cmsg_len == CMSG_LEN(sizeof(int)));
    int received = -1;
    std::memcpy(&received, CMSG_DATA(header), sizeof(int));
    struct stat status {};
    THERIA_FUZZ_EXPECT(fstat(received, &status) == 0);
    close(received);
    return static_cast<std::size_t>(status.st_size);
  }

 private:
  int descriptor_;
  std::string sent_;
};

struct Server {
  Server() : known(device) {
    auto started = DescriptorSocket::Start(path, known.regions());
    THERIA_FUZZ_EXPECT(started.ok());
    socket = *std::move(started);
  }

  // In the working folder: one for each process.
  const std::string path = "theria_fuzz_socket." + std::to_string(getpid());
  FakeDeviceMemory device;
  Known known;
  std::unique_ptr<DescriptorSocket> socket;
};

void Step(Server& server, const std::uint8_t*& data, std::size_t& size,
          std::vector<Client>& clients) {
  const int kind = data[0] % 5;
  const std::size_t count = data[1];
  data += 2;
  size -= 2;
  if (kind == 4) {
    if (!clients.empty()) clients.pop_back();
    return;
  }
  if (clients.empty() || (kind == 3 && clients.size() < kMaxConnections)) {
    clients.emplace_back(server.path);
  }
  if (kind == 0) {
    const std::size_t taken = std::min(count, size);
    clients.back().Send({reinterpret_cast<const char*>(data), taken});
    data += taken;
    size -= taken;
  } else if (kind == 1) {
    clients.back().Send(server.known.region_name(count));
  } else if (kind == 2) {
    clients.back().Send(server.known.region_name(0).substr(0, count % kNameBytes));
  }
}

void TestOne(const std::uint8_t* data, std::size_t size) {
  static Server server;  // removes its socket at the end
  std::vector<Client> clients;
  while (size >= 2) Step(server, data, size, clients);
  for (Client& client : clients) {
    const SharedRegionPtr region = server.known.regions().OfName(client.name());
    const std::optional<std::size_t> received = client.Receive();
    THERIA_FUZZ_EXPECT(received.has_value() == (region != nullptr && !region->is_on_device()));
    if (received.has_value()) THERIA_FUZZ_EXPECT(*received == region->size_bytes());
  }
}

}  // namespace
}  // namespace theria::server

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  theria::server::TestOne(data, size);
  return 0;
}
