#ifndef THERIA_CLIENT_CLI_TARGET_H_
#define THERIA_CLIENT_CLI_TARGET_H_

#include <memory>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "theria/client.h"

namespace theria::cli {

// A server that a command talks to.
struct Target {
  std::string name;  // host:port or unix:PATH
  std::unique_ptr<client::Client> client;
  client::ServerInfo info;
};

// Adds the flags --tls, --tls-ca, --tls-cert, --tls-key, --tls-server-name and --token-file, which
// stand for themselves in the environment as THERIA_TLS_CA and so on. `options` must outlive `app`.
void AddConnectionFlags(CLI::App& app, client::ClientOptions& options);

// Connects and asks who is there. On an error says so on stderr and returns none; the command then
// ends with kUnusable. Calls of the client wait where the server refuses them for a while, as long
// as it says.
std::optional<Target> OpenTarget(const std::string& name, const client::ClientOptions& options);

// "theria: NAME: what: CODE: message" on stderr, and how long the server asks to wait, if it does.
void PrintError(const std::string& name, const std::string& what, const absl::Status& status);

// The same for the first call of a command; its "what" is whether the server cannot be reached.
void PrintFirstError(const std::string& name, const absl::Status& status);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_TARGET_H_
