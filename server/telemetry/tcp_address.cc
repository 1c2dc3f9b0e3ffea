#include "server/telemetry/tcp_address.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace theria::server {
namespace {

// The error of binding a listener to `address`; 0 for none.
int BindError(const addrinfo& address) {
  const int listener =
      socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC, address.ai_protocol);
  if (listener < 0) return errno;
  const int reuse = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  const bool is_free = bind(listener, address.ai_addr, address.ai_addrlen) == 0;
  const int error = is_free ? 0 : errno;
  close(listener);
  return error;
}

}  // namespace

AddressList Resolve(const std::string& address, int* error) {
  const std::size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  *error = getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found);
  return {*error == 0 ? found : nullptr, freeaddrinfo};
}

std::string ReasonNotToListen(const std::string& address) {
  if (address.find(':') == std::string::npos) return "";
  int resolve_error = 0;
  const AddressList found = Resolve(address, &resolve_error);
  if (found == nullptr) return gai_strerror(resolve_error);
  for (const addrinfo* next = found.get(); next != nullptr; next = next->ai_next) {
    if (const int error = BindError(*next); error != 0) {
      return std::generic_category().message(error);
    }
  }
  return "";
}

}  // namespace theria::server
