#ifndef THERIA_SERVER_TELEMETRY_TCP_ADDRESS_H_
#define THERIA_SERVER_TELEMETRY_TCP_ADDRESS_H_

#include <netdb.h>

#include <memory>
#include <string>

// HOST:PORT addresses as the system resolves and binds them.

namespace theria::server {

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

// The socket addresses of HOST:PORT, for a listener. If it cannot be resolved, null, and `*error`
// is getaddrinfo's.
AddressList Resolve(const std::string& address, int* error);

// Why no listener can have HOST:PORT, in words; empty if one can. The HTTP and gRPC servers do not
// return the reason, so this binds a socket of its own to find out.
std::string ReasonNotToListen(const std::string& address);

}  // namespace theria::server

#endif  // THERIA_SERVER_TELEMETRY_TCP_ADDRESS_H_
