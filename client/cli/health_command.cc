#include "client/cli/health_command.h"

#include <cstdio>
#include <memory>
#include <string>

#include "client/cli/exit_code.h"
#include "client/cli/target.h"
#include "theria/client.h"

namespace theria::cli {
namespace {

// Below what probes usually allow.
constexpr absl::Duration kTimeout = absl::Seconds(3);

int RunHealth(const std::string& name, const client::ClientOptions& connection,
              const std::string& service) {
  client::Client client(name, connection);
  const absl::StatusOr<client::Health> health = client.CheckHealth(service, {.timeout = kTimeout});
  if (!health.ok()) {
    PrintFirstError(name, health.status());
    return kUnusable;
  }
  switch (*health) {
    case client::Health::kServing:
      std::puts("SERVING");
      return kHeld;
    case client::Health::kNotServing:
      std::puts("NOT_SERVING");
      return kFailed;
    case client::Health::kServiceUnknown:
      std::puts("SERVICE_UNKNOWN");
      return kFailed;
  }
  return kUnusable;
}

}  // namespace

void AddHealthCommand(CLI::App& app, int* exit_code) {
  struct Flags {
    std::string target;
    client::ClientOptions connection;
    std::string service;
  };
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("health", "Check whether a server accepts calls");
  command->add_option("TARGET", flags->target, "host:port or unix:PATH")->required();
  command->add_option("--service", flags->service, "Service to check; default: the whole server");
  AddConnectionFlags(*command, flags->connection);
  command->callback([flags, exit_code] {
    *exit_code = RunHealth(flags->target, flags->connection, flags->service);
  });
}

}  // namespace theria::cli
