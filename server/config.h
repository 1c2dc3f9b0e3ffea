#ifndef THERIA_SERVER_CONFIG_H_
#define THERIA_SERVER_CONFIG_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// How a server runs: the flags of `theria-server`, which a TOML or INI file may hold as well.

namespace theria::server {

inline constexpr char kNone[] = "none";

struct Config {
  std::vector<std::string> listen = {"127.0.0.1:50051"};
  std::string metrics_listen = "127.0.0.1:9464";  // or kNone
  std::string port_file;                          // empty: none
  std::string metrics_port_file;
  std::string backend = "cpu";

  std::string tls_cert;  // PEM files; empty: plain text
  std::string tls_key;
  std::string tls_client_ca;  // empty: clients need no certificate
  std::string tenants;        // empty: everyone is the default tenant

  int compute_slots = 0;     // computations that run at once; 0: one for each core
  int backend_threads = 0;   // threads of the CPU backend; 0: one for each core
  int device = 0;            // of the CUDA backend, as CUDA counts the visible ones
  std::string tuning_table;  // file; empty: the built-in one for that GPU

  std::size_t cache_bytes = std::size_t{1} << 30;
  std::size_t spill_bytes = std::size_t{1} << 30;  // of host memory; no use to the CPU backend
  std::size_t tenant_quota_bytes = 0;              // 0: cache_bytes and what may be spilled
  std::size_t max_tensor_bytes = 0;                // 0: cache_bytes
  absl::Duration default_ttl = absl::Minutes(10);
  absl::Duration max_ttl = absl::Hours(24);
  absl::Duration max_pin = absl::Hours(1);

  std::string shared_memory;  // path of the socket that gives its descriptors; empty: none
  std::size_t shared_memory_bytes = std::size_t{1} << 30;

  std::size_t max_message_bytes = std::size_t{256} << 20;
  std::size_t max_transport_bytes = 0;  // 0: four messages and 256 MiB
  std::size_t max_queued_requests = 256;
  std::size_t max_queued_bytes = std::size_t{2} << 30;
  std::size_t max_coalesced_requests = 16;
  absl::Duration coalesce_delay = absl::ZeroDuration();
  absl::Duration transfer_stall_timeout = absl::Seconds(30);
  std::size_t transfer_min_bytes_per_second = std::size_t{256} << 10;
  absl::Duration max_call_time = absl::Hours(1);
  absl::Duration drain_timeout = absl::Seconds(30);
  absl::Duration max_connection_age;                     // 0: none
  absl::Duration keepalive_interval = absl::Minutes(1);  // 0: no keepalive
  absl::Duration keepalive_timeout = absl::Seconds(20);
  absl::Duration min_ping_interval = absl::Milliseconds(500);
  std::uint32_t max_benchmark_repetitions = 1000;

  std::string log_level = "info";     // trace, debug, info, warn, error, off
  std::string log_format = "logfmt";  // logfmt, json
  bool channelz = false;
};

// What the command line asks for: to serve, or to print `text` (help, version, or what is wrong
// with the flags) and exit with `exit_status` (0, or 2 for wrong usage).
struct CommandLine {
  bool is_to_serve = false;
  Config config;
  std::string text;
  int exit_status = 0;
};

CommandLine ParseCommandLine(int argc, const char* const* argv);

// Resolves zeros that mean a default. Errors: INVALID_ARGUMENT, naming the flag, what it is and
// what it must be.
absl::StatusOr<Config> Resolve(Config config);

}  // namespace theria::server

#endif  // THERIA_SERVER_CONFIG_H_
