#include "server/config.h"

#include <algorithm>
#include <memory>
#include <set>
#include <thread>

#include "CLI/CLI.hpp"
#include "kernels/api/message.h"
#include "server/version.h"

namespace theria::server {
namespace {

constexpr std::size_t kMaxMessageBytes = 0x7fffffff;     // protobuf's limit
constexpr std::size_t kMaxBytes = std::size_t{1} << 46;  // sums of them cannot overflow
constexpr std::size_t kMinMessageBytes = std::size_t{64} << 10;

// The file of --config. CLI11 ignores unknown keys, sections and repeated keys. Here they are
// errors, because a server that ignores a misspelt `tls_cert` is open to everyone.
class ConfigFile : public CLI::ConfigTOML {
 public:
  explicit ConfigFile(const CLI::App& app) : app_(app) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> items = CLI::ConfigTOML::from_config(input);
    std::set<std::string> names;
    for (const CLI::ConfigItem& item : items) {
      if (!item.parents.empty()) {
        throw CLI::ConfigError(Message("--config has a section '", item.parents.front(),
                                       "', must have none: flags stand at the top"));
      }
      if (app_.get_option_no_throw("--" + item.name) == nullptr) {
        throw CLI::ConfigError(
            Message("--config has a key '", item.name, "', must have names of flags alone"));
      }
      if (!names.insert(item.name).second) {
        throw CLI::ConfigError(Message("--config has the key '", item.name, "' twice"));
      }
    }
    return items;
  }

 private:
  const CLI::App& app_;
};

// A flag that takes seconds, with a fraction or a unit (500ms, 1.5s, 10m, 24h).
CLI::Option* AddDuration(CLI::App& app, const std::string& name, absl::Duration& value,
                         const std::string& help) {
  return app
      .add_option_function<std::string>(
          name,
          [name, &value](const std::string& text) {
            double seconds = 0;
            if (absl::ParseDuration(text, &value)) return;
            if (!CLI::detail::lexical_cast(text, seconds)) {
              throw CLI::ValidationError(name, "is " + text + ", must be like 500ms, 30s or 10m");
            }
            value = absl::Seconds(seconds);
          },
          help)
      ->type_name("DURATION")
      ->default_str(absl::FormatDuration(value));
}

CLI::Validator NotNegative() {
  return {[](const std::string& text) {
            return text.starts_with('-') ? Message("is ", text, ", must not be negative") : "";
          },
          ""};
}

// A flag that takes bytes, with an optional unit (KiB, MiB, GiB).
CLI::Option* AddBytes(CLI::App& app, const std::string& name, std::size_t& value,
                      const std::string& help) {
  return app.add_option(name, value, help)
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->transform(NotNegative())  // before the unit is taken: it would wrap
      ->type_name("BYTES")
      ->capture_default_str();
}

void AddFlags(CLI::App& app, Config& config) {
  app.set_config("--config", "", "Read flags from a TOML or INI file");
  app.config_formatter(std::make_shared<ConfigFile>(app));
  app.add_option("--listen", config.listen, "HOST:PORT (port 0: any free port) or unix:PATH")
      ->delimiter(',')
      ->type_name("ADDR[,ADDR]")
      ->capture_default_str();
  app.add_option("--port-file", config.port_file,
                 "Write the listening addresses to this file, one per line")
      ->type_name("FILE");
  app.add_option("--metrics-listen", config.metrics_listen,
                 "HOST:PORT of the Prometheus endpoint, or none")
      ->type_name("ADDR")
      ->capture_default_str();
  app.add_option("--metrics-port-file", config.metrics_port_file,
                 "Write the address of the Prometheus endpoint to this file")
      ->type_name("FILE");
  app.add_option("--backend", config.backend, "Where to compute")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--tls-cert", config.tls_cert,
                 "PEM certificate chain; without it, connections are not encrypted")
      ->type_name("FILE");
  app.add_option("--tls-key", config.tls_key, "PEM key of that certificate")->type_name("FILE");
  app.add_option(
         "--tls-client-ca", config.tls_client_ca,
         "PEM certificates of the authority of client certificates, which are then required")
      ->type_name("FILE");
  app.add_option("--tenants", config.tenants,
                 "JSON file of tenants, their tokens and limits; reread when it changes")
      ->type_name("FILE");
  app.add_option("--compute-slots", config.compute_slots,
                 "Concurrent computations; 0: one per core")
      ->capture_default_str();
  app.add_option("--backend-threads", config.backend_threads,
                 "Threads per computation on the CPU backend; 0: one per core")
      ->capture_default_str();
  app.add_option("--device", config.device, "GPU of the CUDA backend, among those visible to CUDA")
      ->capture_default_str();
  app.add_option("--tuning-table", config.tuning_table,
                 "Kernels that the CUDA backend prefers; default: the built-in table for its GPU")
      ->type_name("FILE");
}

void AddStoreFlags(CLI::App& app, Config& config) {
  AddBytes(app, "--cache-bytes", config.cache_bytes, "Capacity of the tensor store");
  AddBytes(app, "--spill-bytes", config.spill_bytes,
           "Host memory for tensors that do not fit on the GPU; 0: evict them");
  AddBytes(app, "--tenant-quota-bytes", config.tenant_quota_bytes,
           "Storage limit of one tenant, including spilled tensors; 0: all");
  AddBytes(app, "--max-tensor-bytes", config.max_tensor_bytes,
           "Largest tensor; 0: the store's capacity");
  AddDuration(app, "--default-ttl", config.default_ttl, "Lease of a resident tensor");
  AddDuration(app, "--max-ttl", config.max_ttl, "Longest lease that a client may request");
  app.add_option("--shared-memory", config.shared_memory,
                 "Share memory with clients on this host, through this unix socket")
      ->type_name("PATH");
  AddBytes(app, "--shared-memory-bytes", config.shared_memory_bytes, "Limit for all shared memory");
  AddDuration(app, "--max-pin", config.max_pin, "Longest pin that a client may request");
}

void AddLimitFlags(CLI::App& app, Config& config) {
  AddBytes(app, "--max-message-bytes", config.max_message_bytes, "Largest request or response");
  AddBytes(app, "--max-transport-bytes", config.max_transport_bytes,
           "Limit for the buffers of all connections; 0: four messages and 256 MiB");
  app.add_option("--max-queued-requests", config.max_queued_requests,
                 "Limit of accepted, unfinished requests")
      ->capture_default_str();
  AddBytes(app, "--max-queued-bytes", config.max_queued_bytes,
           "Limit of the bytes of their inputs and outputs");
  app.add_option("--max-coalesced-requests", config.max_coalesced_requests,
                 "Maximum number of small requests computed together; 1: off")
      ->capture_default_str();
  AddDuration(app, "--coalesce-delay", config.coalesce_delay,
              "How long a small request waits for others; a single request never waits");
  AddDuration(app, "--transfer-stall-timeout", config.transfer_stall_timeout,
              "Longest time without progress of an upload or download");
  AddBytes(app, "--transfer-min-bytes-per-second", config.transfer_min_bytes_per_second,
           "Lowest average rate of an upload or download");
  AddDuration(app, "--max-call-time", config.max_call_time,
              "Deadline of calls without one or with a later one");
  AddDuration(app, "--drain-timeout", config.drain_timeout,
              "Time to finish accepted calls after SIGTERM");
  AddDuration(app, "--max-connection-age", config.max_connection_age,
              "Age at which a client is asked to reconnect; 0s: never");
  AddDuration(app, "--keepalive-interval", config.keepalive_interval,
              "Idle time after which the server pings a connection; 0s: never");
  AddDuration(
      app, "--keepalive-timeout", config.keepalive_timeout,
      "Time to respond to that ping before the connection is closed and its calls cancelled");
  AddDuration(app, "--min-ping-interval", config.min_ping_interval,
              "Shortest interval between a client's pings; a third early ping ends the connection");
  app.add_option("--max-benchmark-repetitions", config.max_benchmark_repetitions,
                 "Maximum repetitions per RunBenchmark call")
      ->capture_default_str();
  app.add_option("--log-level", config.log_level, "Lowest severity to log")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--log-format", config.log_format, "Format of log lines")
      ->check(CLI::IsMember({"logfmt", "json"}))
      ->capture_default_str();
  app.add_flag("--channelz", config.channelz, "Serve grpc.channelz.v1");
}

absl::Status OutOfRange(std::string_view flag, const std::string& value,
                        const std::string& expected) {
  return absl::InvalidArgumentError(Message("--", flag, " is ", value, ", must be ", expected));
}

absl::Status CheckBytes(std::string_view flag, std::size_t value, std::size_t low,
                        std::size_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return OutOfRange(flag, Message(value), Message(low, " to ", high, " bytes"));
}

absl::Status CheckCount(std::string_view flag, std::int64_t value, std::int64_t low,
                        std::int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return OutOfRange(flag, Message(value), Message(low, " to ", high));
}

absl::Status CheckDuration(std::string_view flag, absl::Duration value, absl::Duration low,
                           absl::Duration high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return OutOfRange(flag, absl::FormatDuration(value),
                    Message(absl::FormatDuration(low), " to ", absl::FormatDuration(high)));
}

absl::Status CheckHostPort(std::string_view flag, const std::string& address) {
  const std::size_t colon = address.rfind(':');
  if (colon != std::string::npos && colon > 0) {
    const std::string port = address.substr(colon + 1);
    const bool is_number = !port.empty() && port.size() <= 5 &&
                           port.find_first_not_of("0123456789") == std::string::npos;
    if (is_number && std::stoi(port) <= 65535) return absl::OkStatus();
  }
  return OutOfRange(flag, Message("'", address, "'"), "HOST:PORT");
}

absl::Status CheckListenAddress(const std::string& address) {
  if (address.starts_with("unix:")) return absl::OkStatus();  // the path is the server's to judge
  return CheckHostPort("listen", address);
}

absl::Status CheckIdentity(const Config& config) {
  if (config.tls_cert.empty() != config.tls_key.empty()) {
    return OutOfRange(config.tls_cert.empty() ? "tls-cert" : "tls-key", "empty",
                      "a file: certificate and key go together");
  }
  if (!config.tls_client_ca.empty() && config.tls_cert.empty()) {
    return OutOfRange("tls-cert", "empty", "a file, for --tls-client-ca to have a meaning");
  }
  if (config.channelz && !config.tenants.empty()) {
    return OutOfRange("channelz", "on",
                      "off with --tenants: it shows each of them the others' calls");
  }
  return absl::OkStatus();
}

void SetDefaults(Config& config) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  if (config.compute_slots == 0) config.compute_slots = cores;
  if (config.backend == "cpu") config.spill_bytes = 0;
  if (config.tenant_quota_bytes == 0) {
    config.tenant_quota_bytes = config.cache_bytes + config.spill_bytes;
  }
  if (config.max_tensor_bytes == 0) config.max_tensor_bytes = config.cache_bytes;
  if (config.max_transport_bytes == 0) {
    config.max_transport_bytes = 4 * config.max_message_bytes + (std::size_t{256} << 20);
  }
}

}  // namespace

CommandLine ParseCommandLine(int argc, const char* const* argv) {
  CommandLine command_line;
  CLI::App app("A gRPC server for attention and its exact first and second derivatives",
               "theria-server");
  app.set_version_flag("--version", std::string(kVersion));
  AddFlags(app, command_line.config);
  AddStoreFlags(app, command_line.config);
  AddLimitFlags(app, command_line.config);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    std::ostringstream text;
    app.exit(help, text, text);
    command_line.text = text.str();
    return command_line;
  } catch (const CLI::ParseError& error) {
    command_line.text = Message("theria-server: ", error.what(), "\n");
    command_line.exit_status = 2;
    return command_line;
  }
  absl::StatusOr<Config> config = Resolve(std::move(command_line.config));
  if (!config.ok()) {
    command_line.text = Message("theria-server: ", config.status().message(), "\n");
    command_line.exit_status = 2;
    return command_line;
  }
  command_line.config = *std::move(config);
  command_line.is_to_serve = true;
  return command_line;
}

absl::StatusOr<Config> Resolve(Config config) {
  if (config.listen.empty()) return OutOfRange("listen", "empty", "HOST:PORT or unix:PATH");
  absl::Status checks;
  for (const std::string& address : config.listen) checks.Update(CheckListenAddress(address));
  if (config.metrics_listen != kNone) {
    checks.Update(CheckHostPort("metrics-listen", config.metrics_listen));
  }
  SetDefaults(config);
  checks.Update(CheckCount("compute-slots", config.compute_slots, 1, 1024));
  checks.Update(CheckCount("backend-threads", config.backend_threads, 0, 1024));
  checks.Update(CheckBytes("cache-bytes", config.cache_bytes, std::size_t{1} << 20, kMaxBytes));
  checks.Update(CheckCount("device", config.device, 0, 1023));
  checks.Update(CheckBytes("spill-bytes", config.spill_bytes, 0, kMaxBytes));
  checks.Update(CheckBytes("shared-memory-bytes", config.shared_memory_bytes, 1, kMaxBytes));
  checks.Update(CheckBytes("tenant-quota-bytes", config.tenant_quota_bytes, 1,
                           config.cache_bytes + config.spill_bytes));
  checks.Update(CheckBytes("max-tensor-bytes", config.max_tensor_bytes, 1, config.cache_bytes));
  checks.Update(CheckBytes("max-message-bytes", config.max_message_bytes, kMinMessageBytes,
                           kMaxMessageBytes));
  checks.Update(CheckBytes("max-transport-bytes", config.max_transport_bytes,
                           config.max_message_bytes, kMaxBytes));
  checks.Update(CheckBytes("max-queued-bytes", config.max_queued_bytes, 1, kMaxBytes));
  checks.Update(CheckCount("max-queued-requests",
                           static_cast<std::int64_t>(config.max_queued_requests), 1, 1'000'000));
  checks.Update(CheckIdentity(config));
  checks.Update(CheckCount("max-coalesced-requests",
                           static_cast<std::int64_t>(config.max_coalesced_requests), 1, 4096));
  checks.Update(CheckBytes("transfer-min-bytes-per-second", config.transfer_min_bytes_per_second, 1,
                           kMaxBytes));
  checks.Update(
      CheckCount("max-benchmark-repetitions", config.max_benchmark_repetitions, 1, 1'000'000));
  const absl::Duration year = absl::Hours(24 * 365);
  checks.Update(CheckDuration("max-ttl", config.max_ttl, absl::Milliseconds(1), year));
  checks.Update(
      CheckDuration("default-ttl", config.default_ttl, absl::Milliseconds(1), config.max_ttl));
  checks.Update(CheckDuration("max-pin", config.max_pin, absl::Milliseconds(1), year));
  checks.Update(CheckDuration("max-call-time", config.max_call_time, absl::Milliseconds(1), year));
  checks.Update(CheckDuration("coalesce-delay", config.coalesce_delay, absl::ZeroDuration(),
                              absl::Seconds(1)));
  checks.Update(CheckDuration("transfer-stall-timeout", config.transfer_stall_timeout,
                              absl::Milliseconds(1), year));
  checks.Update(CheckDuration("drain-timeout", config.drain_timeout, absl::ZeroDuration(), year));
  checks.Update(CheckDuration("max-connection-age", config.max_connection_age, absl::ZeroDuration(),
                              absl::Hours(24)));
  if (config.keepalive_interval != absl::ZeroDuration()) {
    checks.Update(CheckDuration("keepalive-interval", config.keepalive_interval, absl::Seconds(1),
                                absl::Hours(24)));
  }
  checks.Update(CheckDuration("keepalive-timeout", config.keepalive_timeout, absl::Milliseconds(1),
                              absl::Hours(24)));
  checks.Update(CheckDuration("min-ping-interval", config.min_ping_interval, absl::ZeroDuration(),
                              absl::Hours(24)));
  if (!checks.ok()) return checks;
  return config;
}

}  // namespace theria::server
