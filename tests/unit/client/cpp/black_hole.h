#ifndef THERIA_TESTS_UNIT_CLIENT_CPP_BLACK_HOLE_H_
#define THERIA_TESTS_UNIT_CLIENT_CPP_BLACK_HOLE_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace theria::client {

// A TCP proxy on loopback that can stop forwarding, as a dead link does: connections stay open and
// new ones are accepted, but no byte passes.
class BlackHole {
 public:
  explicit BlackHole(int upstream_port)
      : upstream_(Loopback(upstream_port)),
        listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof(address);
    bind(listener_, reinterpret_cast<const sockaddr*>(&address), size);
    listen(listener_, SOMAXCONN);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    target_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
  }
  BlackHole(const BlackHole&) = delete;
  BlackHole& operator=(const BlackHole&) = delete;
  ~BlackHole() {
    thread_.request_stop();
    thread_.join();
    for (const pollfd& end : ends_) close(end.fd);
    close(listener_);
  }

  const std::string& target() const { return target_; }
  void StopForwarding() { forwards_ = false; }

 private:
  static sockaddr_in Loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    return address;
  }

  void Run(const std::stop_token& stop) {
    std::array<char, 65536> buffer;
    while (!stop.stop_requested()) {
      pollfd incoming = {listener_, POLLIN, 0};
      if (poll(&incoming, 1, 1) > 0) Accept();
      if (!forwards_ || poll(ends_.data(), ends_.size(), 1) <= 0) continue;
      for (std::size_t i = 0; i < ends_.size(); ++i) {
        if (ends_[i].revents == 0) continue;
        const ssize_t size = recv(ends_[i].fd, buffer.data(), buffer.size(), 0);
        const int peer = ends_[i ^ 1].fd;  // the two ends of a connection are neighbours
        if (size > 0) send(peer, buffer.data(), static_cast<std::size_t>(size), MSG_NOSIGNAL);
        if (size > 0) continue;
        shutdown(peer, SHUT_WR);
        ends_[i].events = 0;
      }
    }
  }

  void Accept() {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    connect(server, reinterpret_cast<const sockaddr*>(&upstream_), sizeof(upstream_));
    ends_.push_back({client, POLLIN, 0});
    ends_.push_back({server, POLLIN, 0});
  }

  const sockaddr_in upstream_;
  const int listener_;
  std::string target_;
  std::atomic<bool> forwards_ = true;
  std::vector<pollfd> ends_;  // of the thread, until it ended
  std::jthread thread_;
};

}  // namespace theria::client

#endif  // THERIA_TESTS_UNIT_CLIENT_CPP_BLACK_HOLE_H_
