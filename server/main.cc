// theria-server: flags -> Config -> wiring. The one place that sees every layer.

#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "grpc/grpc.h"
#include "kernels/api/message.h"
#include "kernels/cpu/backend.h"
#include "kernels/cuda/backend.h"
#include "prometheus/counter.h"
#include "prometheus/registry.h"
#include "server/cache/monotonic_clock.h"
#include "server/cache/shared_regions.h"
#include "server/cache/tensor_store.h"
#include "server/config.h"
#include "server/engine/executor.h"
#include "server/engine/state_metrics.h"
#include "server/identity/authenticator.h"
#include "server/identity/tenant_metrics.h"
#include "server/planted_fault.h"
#include "server/rpc/admission.h"
#include "server/rpc/attention_service.h"
#include "server/rpc/descriptor_socket.h"
#include "server/rpc/grpc_log.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/server_service.h"
#include "server/rpc/server_tls.h"
#include "server/rpc/shared_memory_service.h"
#include "server/rpc/tensor_service.h"
#include "server/telemetry/gpu_metrics.h"
#include "server/telemetry/log.h"
#include "server/telemetry/log_sink.h"
#include "server/telemetry/metrics_endpoint.h"
#include "server/telemetry/process_metrics.h"
#include "server/version.h"

namespace theria::server {
namespace {

// Room that a response's other fields take beside the outputs.
constexpr std::size_t kResponseOverheadBytes = std::size_t{16} << 10;

// The process's end after a fault that its device does not recover from, for its supervisor to
// start another.
constexpr int kDeviceFaultExit = 3;

// The same after a listener that accepts no more, for want of descriptors.
constexpr int kListenerFaultExit = 4;

// How long the log's reader has, at the end, to take what he did not.
constexpr absl::Duration kLogPatience = absl::Seconds(1);

// Of how many computations the next one faults: for tests, a number; unset outside of them.
constexpr char kFaultVariable[] = "THERIA_TEST_FAULT_AFTER_RUNS";

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const Config& config) {
  const bool is_cuda = config.backend == "cuda";
  absl::StatusOr<std::unique_ptr<Backend>> backend =
      is_cuda ? absl::StatusOr<std::unique_ptr<Backend>>(
                    MakeCudaBackend({.device = config.device, .tuning_table = config.tuning_table}))
              : MakeCpuBackend(CpuBackendOptions{.threads = config.backend_threads});
  const char* const good_runs = std::getenv(kFaultVariable);
  if (!backend.ok() || good_runs == nullptr) return backend;
  std::function<absl::Status()> plant;
  if (is_cuda) plant = [device = config.device] { return PlantCudaFault(device); };
  return std::make_unique<PlantedFault>(*std::move(backend), std::atoll(good_runs),
                                        std::move(plant));
}

TensorStore::Options StoreOptions(const Config& config, Backend& backend) {
  TensorStore::Options options;
  options.capacity_bytes = config.cache_bytes;
  options.spill_memory = &backend.spill_memory();
  options.spill_capacity_bytes = config.spill_bytes;
  options.tenant_quota_bytes = config.tenant_quota_bytes;
  options.max_tensor_bytes = config.max_tensor_bytes;
  options.default_ttl = config.default_ttl;
  options.max_ttl = config.max_ttl;
  options.max_pin = config.max_pin;
  return options;
}

// Who may have so much of the server as is left free, times this, where there are tenants: one that
// is alone gets four fifths of the queue.
constexpr double kMaxShareOfFree = 4.0;

SharedRegions::Options RegionOptions(const Config& config) {
  SharedRegions::Options options;
  options.capacity_bytes = config.shared_memory_bytes;
  options.max_share_of_free = config.tenants.empty() ? 0.0 : kMaxShareOfFree;
  options.default_ttl = config.default_ttl;
  options.max_ttl = config.max_ttl;
  return options;
}

// The tenants of --tenants, whose quotas the store learns, or the default tenant alone.
absl::StatusOr<std::unique_ptr<Authenticator>> MakeAuthenticator(const Config& config,
                                                                 TensorStore& store) {
  if (config.tenants.empty()) return std::make_unique<Authenticator>();
  const bool is_local =
      std::all_of(config.listen.begin(), config.listen.end(), [](const std::string& address) {
        return address.starts_with("unix:") || address.starts_with("127.") ||
               address.starts_with("localhost:") || address.starts_with("[::1]:");
      });
  if (config.tls_cert.empty() && !is_local) {
    LogLine(spdlog::level::warn, "tokens travel in plain text: no --tls-cert");
  }
  return Authenticator::Open(config.tenants, [&store](const Account& account) {
    store.SetQuota(account.tenant(), account.limits().quota_bytes);
  });
}

// Writes `lines` to `path` so that a reader sees all of them or no file.
absl::Status WriteAddressFile(const char* flag, const std::string& path,
                              const std::vector<std::string>& lines) {
  if (path.empty()) return absl::OkStatus();
  const std::string partial = Message(path, ".partial");
  errno = 0;
  std::ofstream file(partial);
  for (const std::string& line : lines) file << line << '\n';
  file.close();
  std::error_code error(file ? 0 : errno, std::generic_category());
  if (file) std::filesystem::rename(partial, path, error);
  if (file && !error) return absl::OkStatus();
  return absl::UnavailableError(
      Message("--", flag, " is '", path, "', which cannot be written: ", error.message()));
}

// Once a second reads the tenants file and those of TLS if they changed, tells of logins that were
// refused, drops expired tensors and regions, and gives freed memory back to the system where no
// call is under way: the heaps of gRPC's threads would keep what the largest messages once took.
class Housekeeping {
 public:
  Housekeeping(TensorStore& store, SharedRegions* regions, Authenticator& authenticator,
               ServerTls& tls, DrainGate& gate, MetricRegistry& registry)
      : refused_files_(prometheus::BuildCounter()
                           .Name("theria_refused_files_total")
                           .Help("Changed files that were refused; the last good one stays in use.")
                           .Register(registry.families())),
        refused_tenants_(refused_files_.Add({{"file", "tenants"}})),
        refused_certificates_(refused_files_.Add({{"file", "certificates"}})),
        thread_([&store, regions, &authenticator, &tls, &gate, this](const std::stop_token& stop) {
          std::mutex mutex;
          std::condition_variable_any wake;
          std::unique_lock lock(mutex);
          std::uint64_t trimmed_at = 0;
          while (!wake.wait_for(lock, stop, std::chrono::seconds(1), [] { return false; }) &&
                 !stop.stop_requested()) {
            store.CollectExpired();
            if (regions != nullptr) regions->CollectExpired();
            ReadTenants(authenticator);
            authenticator.refused_logins().TellWhatFollowed();
            TellDroppedLines();
            ReadCertificates(tls);
            if (gate.total_calls() != trimmed_at && gate.AwaitIdle(SteadyNow())) {
              trimmed_at = gate.total_calls();
              HostMemory().Trim();
              malloc_trim(0);
            }
          }
        }) {}

 private:
  void TellDroppedLines() {
    StderrSink()->flush();
    const std::uint64_t dropped = StderrSink()->dropped_lines();
    if (dropped == told_dropped_) return;
    LogLine(spdlog::level::warn, "log lines dropped").Add("lines", dropped - told_dropped_);
    told_dropped_ = dropped;
  }

  void ReadTenants(Authenticator& authenticator) {
    const absl::StatusOr<bool> read = authenticator.Refresh();
    if (!read.ok()) {
      refused_tenants_.Increment();
      LogLine(spdlog::level::err, "tenants refused")
          .Add("reason", std::string(read.status().message()));
    } else if (*read) {
      LogLine(spdlog::level::info, "tenants read").Add("tenants", authenticator.accounts().size());
    }
  }

  void ReadCertificates(ServerTls& tls) {
    const absl::StatusOr<bool> read = tls.Refresh();
    if (!read.ok()) {
      refused_certificates_.Increment();
      LogLine(spdlog::level::err, "certificates refused")
          .Add("reason", std::string(read.status().message()));
    } else if (*read) {
      LogLine(spdlog::level::info, "certificates read");
    }
  }

  prometheus::Family<prometheus::Counter>& refused_files_;
  prometheus::Counter& refused_tenants_;
  prometheus::Counter& refused_certificates_;
  std::uint64_t told_dropped_ = 0;
  std::jthread thread_;
};

// SIGTERM, SIGINT and SIGHUP, blocked in every thread and polled for in one.
class Signals {
 public:
  Signals() {
    sigemptyset(&ends_);
    sigaddset(&ends_, SIGTERM);
    sigaddset(&ends_, SIGINT);
    all_ = ends_;
    sigaddset(&all_, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &all_, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }

  // The signal to end by that came in a tenth of a second, or nothing. Operators send SIGHUP to
  // have files read again, which they are without it: it is logged.
  std::optional<std::string> Poll() const {
    const timespec interval = {.tv_sec = 0, .tv_nsec = 100'000'000};
    const int number = sigtimedwait(&all_, nullptr, &interval);
    if (number == SIGHUP) {
      LogLine(spdlog::level::info, "SIGHUP changes nothing")
          .Add("reason", "tenants and certificates are read again when their files change");
    }
    if (number < 0 || number == SIGHUP) return std::nullopt;
    return number == SIGTERM ? "SIGTERM" : "SIGINT";
  }

  // From now on SIGTERM and SIGINT end the process at once, as if nobody handled them.
  void Restore() const { pthread_sigmask(SIG_UNBLOCK, &ends_, nullptr); }

 private:
  sigset_t ends_;
  sigset_t all_;
};

// gRPC's runtime. Destroyed, it has closed every connection and let go of all buffers, those in the
// tensor store among them.
class GrpcRuntime {
 public:
  GrpcRuntime() { grpc_init(); }
  ~GrpcRuntime() { grpc_shutdown_blocking(); }
  GrpcRuntime(const GrpcRuntime&) = delete;
  GrpcRuntime& operator=(const GrpcRuntime&) = delete;
};

// Waits for a signal, for the end of the device's health or for that of a listener; then lets the
// server finish what it accepted. Returns the process's exit status.
int AwaitAndDrain(const Config& config, const Signals& signals, const Backend& backend,
                  Executor& executor, GrpcServer& server) {
  std::optional<std::string> signal;
  absl::Status health;
  while (!signal.has_value() && health.ok() && !HasListenerFailed()) {
    signal = signals.Poll();
    health = backend.health();
  }
  int exit_status = 0;
  if (!health.ok()) {
    LogLine(spdlog::level::err, "device fault").Add("error", std::string(health.message()));
    exit_status = kDeviceFaultExit;
  } else if (signal.has_value()) {
    LogLine(spdlog::level::info, "draining").Add("signal", *signal);
  } else {
    LogLine(spdlog::level::err, "listener fault")
        .Add("error",
             "a listener accepts no more connections; the limit of descriptors is reached");
    exit_status = kListenerFaultExit;
  }
  signals.Restore();
  const absl::Time deadline = SteadyNow() + config.drain_timeout;
  server.StopServing();
  const bool is_computed = executor.Drain(deadline);
  const bool is_idle = server.Shutdown(deadline);
  LogLine(spdlog::level::info, "stopped").Add("drained", is_computed && is_idle ? "true" : "false");
  return exit_status;
}

// Returns the process's exit status.
absl::StatusOr<int> Serve(const Config& config, const Signals& signals) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = MakeBackend(config);
  if (!backend.ok()) return backend.status();
  MetricRegistry registry;
  AddProcessMetrics(registry, {std::string(kVersion), std::string(kCommit), config.backend});
  AddLogMetrics(registry);
  AddGpuMetrics(registry);
  ComputeMetrics compute_metrics(registry);
  RpcMetrics rpc_metrics(registry);
  TensorStore store((*backend)->memory(), StoreOptions(config, **backend));
  AddStoreMetrics(registry, store);
  AddHostMemoryMetrics(registry, HostMemory());
  absl::StatusOr<std::unique_ptr<Authenticator>> authenticator = MakeAuthenticator(config, store);
  if (!authenticator.ok()) return authenticator.status();
  Executor executor({.slots = config.compute_slots,
                     .max_accepted_jobs = config.max_queued_requests,
                     .max_accepted_bytes = config.max_queued_bytes,
                     .max_share_of_free = config.tenants.empty() ? 0.0 : kMaxShareOfFree,
                     .max_coalesced_jobs = config.max_coalesced_requests,
                     .coalesce_delay = config.coalesce_delay},
                    compute_metrics);
  AddQueueMetrics(registry, executor);
  AddTenantMetrics(registry, **authenticator, store, executor);
  std::optional<SharedRegions> regions;
  std::unique_ptr<DescriptorSocket> descriptors;
  if (!config.shared_memory.empty()) {
    regions.emplace(RegionOptions(config), &(*backend)->memory());
    absl::StatusOr<std::unique_ptr<DescriptorSocket>> socket =
        DescriptorSocket::Start(config.shared_memory, *regions);
    if (!socket.ok()) return socket.status();
    descriptors = *std::move(socket);
    AddSharedMemoryMetrics(registry, *regions);
  }
  SharedRegions* const shared = regions.has_value() ? &*regions : nullptr;
  DrainGate gate;
  const Admission admission(gate, **authenticator);
  const GrpcRuntime grpc_runtime;
  absl::StatusOr<std::unique_ptr<ServerTls>> tls =
      ServerTls::Open({config.tls_cert, config.tls_key, config.tls_client_ca}, registry);
  if (!tls.ok()) return tls.status();
  const Housekeeping housekeeping(store, shared, **authenticator, **tls, gate, registry);
  AttentionService attention({**backend, store, executor, compute_metrics, admission, shared},
                             {config.max_tensor_bytes, config.max_queued_bytes,
                              config.max_message_bytes - kResponseOverheadBytes},
                             config.max_call_time);
  TensorServiceOptions transfers;
  transfers.transfer = {config.transfer_stall_timeout, config.transfer_min_bytes_per_second};
  TensorService tensors(store, admission, transfers, shared);
  SharedMemoryService memory(shared, admission, config.shared_memory);
  ServerService info(
      {**backend, store, executor, compute_metrics, admission, shared},
      {std::string(kVersion), std::string(kCommit), config.max_message_bytes,
       config.max_tensor_bytes, config.max_benchmark_repetitions, config.max_call_time});
  absl::StatusOr<std::unique_ptr<GrpcServer>> server = GrpcServer::Start(
      {config.listen,
       config.max_message_bytes,
       config.max_transport_bytes,
       config.channelz,
       config.max_connection_age,
       {config.keepalive_interval, config.keepalive_timeout, config.min_ping_interval},
       (*tls)->credentials()},
      {&attention, &tensors, &info, &memory},
      {v1::AttentionService::service_full_name(), v1::TensorService::service_full_name(),
       v1::ServerService::service_full_name(), v1::SharedMemoryService::service_full_name()},
      rpc_metrics, gate);
  if (!server.ok()) return server.status();

  std::unique_ptr<MetricsEndpoint> metrics;
  if (config.metrics_listen != kNone) {
    auto endpoint = MetricsEndpoint::Start(config.metrics_listen, registry);
    if (!endpoint.ok()) return endpoint.status();
    metrics = *std::move(endpoint);
    absl::Status written =
        WriteAddressFile("metrics-port-file", config.metrics_port_file, {metrics->address()});
    if (!written.ok()) return written;
    LogLine(spdlog::level::info, "metrics").Add("address", metrics->address());
  }
  absl::Status written = WriteAddressFile("port-file", config.port_file, (*server)->addresses());
  if (!written.ok()) return written;
  for (const std::string& address : (*server)->addresses()) {
    LogLine(spdlog::level::info, "listening")
        .Add("address", address)
        .Add("backend", config.backend);
  }

  const int exit_status = AwaitAndDrain(config, signals, **backend, executor, **server);
  if (exit_status == kDeviceFaultExit) {
    StderrSink()->Drain(kLogPatience);
    // Not through destructors: they would talk to a device that answers no more.
    std::_Exit(exit_status);
  }
  return exit_status;
}

// Connections and shared regions hold a descriptor each; a shell's soft limit is often 1024, for
// the sake of programs that call select().
void AllowManyDescriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t given = std::exchange(limit.rlim_cur, limit.rlim_max);
  const bool is_raised = setrlimit(RLIMIT_NOFILE, &limit) == 0;
  LogLine(spdlog::level::info, "descriptors")
      .Add("limit", std::uint64_t{is_raised ? limit.rlim_max : given})
      .Add("given", std::uint64_t{given});
}

int Main(int argc, char** argv) {
  const CommandLine command_line = ParseCommandLine(argc, argv);
  if (!command_line.is_to_serve) {
    (command_line.exit_status == 0 ? std::cout : std::cerr) << command_line.text;
    return command_line.exit_status;
  }
  const Config& config = command_line.config;
  // gRPC frees on other threads than it allocates on, and messages come in all sizes. With an arena
  // for each thread and thresholds that adapt, glibc's heap would keep growing under load.
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
  mallopt(M_TRIM_THRESHOLD, 1 << 20);
  SetUpLog(spdlog::level::from_str(config.log_level),
           config.log_format == "json" ? LogFormat::kJson : LogFormat::kLogfmt);
  const Signals signals;
  AllowManyDescriptors();
  RedirectGrpcLog();
  const absl::StatusOr<int> served = Serve(config, signals);
  StderrSink()->Drain(kLogPatience);
  if (!served.ok()) {
    std::cerr << "theria-server: " << served.status().message() << '\n';
    return absl::IsInvalidArgument(served.status()) ? 2 : 1;
  }
  return *served;
}

}  // namespace
}  // namespace theria::server

int main(int argc, char** argv) { return theria::server::Main(argc, argv); }
