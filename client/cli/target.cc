#include "client/cli/target.h"

#include <cstdio>
#include <functional>
#include <utility>

#include "client/cli/units.h"
#include "theria/error_details.h"

namespace theria::cli {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(10);
constexpr int kMaxRefusals = 10;  // of one call, each waited for

// "theria: NAME: CODE: message", with `what` in between, if it says anything.
void Print(const std::string& name, const std::string& what, const absl::Status& status) {
  std::string text = name + ": " + (what.empty() ? "" : what + ": ") +
                     std::string(status.ToString(absl::StatusToStringMode::kWithNoExtraData));
  if (const auto retry_delay = client::DetailsOf(status).retry_delay; retry_delay.has_value()) {
    text += "; the server asks to wait " + cli::FormatDuration(*retry_delay);
  }
  std::fprintf(stderr, "theria: %s\n", text.c_str());
}

}  // namespace

void AddConnectionFlags(CLI::App& app, client::ClientOptions& options) {
  const auto tls = [&options]() -> client::TlsOptions& {
    if (!options.tls.has_value()) options.tls.emplace();
    return *options.tls;
  };
  const auto add = [&app](const std::string& flag, const char* variable,
                          std::function<void(const std::string&)> set, const std::string& help) {
    return app.add_option_function<std::string>(flag, std::move(set), help)->envname(variable);
  };
  app.add_flag_callback(
      "--tls", [tls] { tls(); }, "Use TLS; implied by the other --tls flags");
  add(
      "--tls-ca", "THERIA_TLS_CA", [tls](const std::string& path) { tls().ca_file = path; },
      "PEM certificates of the authority of server certificates")
      ->type_name("FILE");
  add(
      "--tls-cert", "THERIA_TLS_CERT", [tls](const std::string& path) { tls().cert_file = path; },
      "PEM certificate of this client")
      ->type_name("FILE");
  add(
      "--tls-key", "THERIA_TLS_KEY", [tls](const std::string& path) { tls().key_file = path; },
      "PEM key of that certificate")
      ->type_name("FILE");
  add(
      "--tls-server-name", "THERIA_TLS_SERVER_NAME",
      [tls](const std::string& name) { tls().server_name = name; },
      "Name in the server's certificate, if it is not the target's host")
      ->type_name("NAME");
  app.add_option("--token-file", options.token_file, "File that contains the bearer token")
      ->envname("THERIA_TOKEN_FILE")
      ->type_name("FILE");
}

std::optional<Target> OpenTarget(const std::string& name, const client::ClientOptions& options) {
  Target target;
  target.name = name;
  client::ClientOptions patient = options;
  patient.retry.max_refusals = kMaxRefusals;
  target.client = std::make_unique<client::Client>(name, patient);
  absl::StatusOr<client::ServerInfo> info =
      target.client->GetServerInfo({.timeout = kConnectTimeout});
  if (!info.ok()) {
    PrintFirstError(name, info.status());
    return std::nullopt;
  }
  target.info = *std::move(info);
  return target;
}

void PrintError(const std::string& name, const std::string& what, const absl::Status& status) {
  Print(name, what, status);
}

void PrintFirstError(const std::string& name, const absl::Status& status) {
  const bool is_unreachable = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
  Print(name, is_unreachable ? "cannot be reached" : "", status);
}

}  // namespace theria::cli
