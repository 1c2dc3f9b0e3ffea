#ifndef THERIA_SERVER_RPC_LISTEN_ADDRESS_H_
#define THERIA_SERVER_RPC_LISTEN_ADDRESS_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

// Addresses to listen on: HOST:PORT or unix:PATH.

namespace theria::server {

// The path of a unix:PATH address, else empty.
std::string UnixPath(std::string_view address);

// `address` with its port replaced by `port`; a unix address as it is.
std::string WithPort(std::string_view address, int port);

// Makes way for a listener at `path`: removes a socket that a dead server left.
// Errors: UNAVAILABLE if a server listens there, something other than a socket is in the way, or
// the folder is missing or not writable.
absl::Status PrepareUnixPath(const std::string& path);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_LISTEN_ADDRESS_H_
