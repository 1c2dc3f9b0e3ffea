#ifndef THERIA_SERVER_RPC_DESCRIPTOR_SOCKET_H_
#define THERIA_SERVER_RPC_DESCRIPTOR_SOCKET_H_

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "server/cache/shared_regions.h"

// The unix socket on which clients get the file descriptors of their regions, which gRPC cannot
// carry: who connects and sends a region's name receives one byte and the descriptor (SCM_RIGHTS).
// The name, told to its tenant alone, is the permission. For owner and group of the process only.
// One thread serves all connections; who does not send a name within a second is cut.

namespace theria::server {

class DescriptorSocket {
 public:
  // `regions` must outlive this. Errors: UNAVAILABLE, naming the path.
  static absl::StatusOr<std::unique_ptr<DescriptorSocket>> Start(const std::string& path,
                                                                 SharedRegions& regions);
  // Removes the socket.
  ~DescriptorSocket();
  DescriptorSocket(const DescriptorSocket&) = delete;
  DescriptorSocket& operator=(const DescriptorSocket&) = delete;

  const std::string& path() const { return path_; }

 private:
  struct Connection;

  DescriptorSocket(std::string path, SharedRegions& regions, int listener, int wake);
  void Serve(const std::stop_token& stop);
  // Reads what is there. Returns whether more of the name is to come.
  bool Advance(Connection& connection);
  void Answer(const Connection& connection);

  const std::string path_;
  SharedRegions& regions_;
  const int listener_;
  const int wake_;  // an eventfd, readable at the end
  std::jthread thread_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_DESCRIPTOR_SOCKET_H_
