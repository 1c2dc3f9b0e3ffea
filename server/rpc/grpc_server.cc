#include "server/rpc/grpc_server.h"

#include <sys/stat.h>

#include <cstdint>
#include <utility>

#include "absl/time/clock.h"
#include "grpcpp/ext/channelz_service_plugin.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "kernels/api/message.h"
#include "server/cache/monotonic_clock.h"
#include "server/rpc/listen_address.h"
#include "server/rpc/request_context.h"
#include "server/rpc/rpc_interceptor.h"
#include "server/telemetry/tcp_address.h"

namespace theria::server {
namespace {

// How long a drained server goes on answering calls that clients sent before they knew.
constexpr absl::Duration kGoodbye = absl::Milliseconds(500);

// What comes once gRPC shuts down gets CANCELLED. First the server answers UNAVAILABLE, until no
// call has come for kQuiet or kMaxRefusing is over.
constexpr absl::Duration kQuiet = absl::Milliseconds(100);
constexpr absl::Duration kMaxRefusing = absl::Seconds(2);

// Of gRPC's synchronous services, reflection alone: each open stream of it holds a thread.
constexpr int kMaxThreads = 16;

// Files made while it lives, sockets among them, are for owner and group alone.
class PrivateFiles {
 public:
  PrivateFiles() : previous_(umask(S_IXUSR | S_IXGRP | S_IRWXO)) {}
  ~PrivateFiles() { umask(previous_); }
  PrivateFiles(const PrivateFiles&) = delete;
  PrivateFiles& operator=(const PrivateFiles&) = delete;

 private:
  const mode_t previous_;
};

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

void ConfigureKeepalive(const KeepaliveOptions& options, grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             Milliseconds(options.min_ping_interval));
  // Clients may also ping between calls, and the server pings idle connections.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  if (options.interval <= absl::ZeroDuration()) return;
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.interval));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.timeout));
  // A minute by default, during which newer versions of gRPC wait for any ping.
  builder.AddChannelArgument("grpc.http2.ping_timeout_ms", Milliseconds(options.timeout));
  // By default, gRPC stops pinging after two pings without data in between. A long computation
  // sends no data.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

void Configure(const GrpcServer::Options& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(options.max_message_bytes));
  // Message limits bind only once a whole message has come; this bounds all of them together.
  grpc::ResourceQuota quota("theria");
  quota.Resize(options.max_transport_bytes);
  quota.SetMaxThreads(kMaxThreads);
  builder.SetResourceQuota(quota);
  // gRPC inflates a compressed message before any limit or login is asked, a thousandfold.
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  // Else a second server could share the port unnoticed.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Reflection alone is synchronous; one thread waits for its calls.
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 1);
  builder.SetContextAllocator(MakeContextAllocator());
  if (options.max_connection_age > absl::ZeroDuration()) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                               Milliseconds(options.max_connection_age));
  }
  ConfigureKeepalive(options.keepalive, builder);
  if (options.channelz) {
    builder.AddChannelArgument(GRPC_ARG_ENABLE_CHANNELZ, 1);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const Options& options, const std::vector<grpc::Service*>& services,
    const std::vector<std::string>& service_names, RpcMetrics& metrics, DrainGate& gate) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  if (options.channelz) grpc::channelz::experimental::InitChannelzService();

  grpc::ServerBuilder builder;
  Configure(options, builder);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
  creators.push_back(MakeRpcInterceptorFactory(metrics, gate));
  builder.experimental().SetInterceptorCreators(std::move(creators));
  for (grpc::Service* service : services) builder.RegisterService(service);

  const std::shared_ptr<grpc::ServerCredentials> plain_text = grpc::InsecureServerCredentials();
  std::vector<int> ports(options.listen.size(), 0);
  for (std::size_t i = 0; i < options.listen.size(); ++i) {
    const std::string& address = options.listen[i];
    const std::string path = UnixPath(address);
    if (!path.empty()) {
      if (absl::Status prepared = PrepareUnixPath(path); !prepared.ok()) return prepared;
    }
    const bool is_secure = path.empty() && options.credentials != nullptr;
    builder.AddListeningPort(address, is_secure ? options.credentials : plain_text, &ports[i]);
  }
  std::unique_ptr<grpc::Server> server;
  {
    const PrivateFiles private_files;
    server = builder.BuildAndStart();
  }
  std::vector<std::string> addresses;
  for (std::size_t i = 0; i < ports.size(); ++i) {
    if (ports[i] == 0) {
      const std::string reason = ReasonNotToListen(options.listen[i]);
      return absl::UnavailableError(Message("cannot listen on ", options.listen[i], ": ",
                                            reason.empty() ? "gRPC could not bind it" : reason));
    }
    addresses.push_back(WithPort(options.listen[i], ports[i]));
  }
  if (server == nullptr) return absl::UnavailableError("gRPC refused to start the server");
  grpc::HealthCheckServiceInterface& health = *server->GetHealthCheckService();
  for (const std::string& name : service_names) health.SetServingStatus(name, true);
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(server), std::move(addresses), gate));
}

GrpcServer::GrpcServer(std::unique_ptr<grpc::Server> server, std::vector<std::string> addresses,
                       DrainGate& gate)
    : server_(std::move(server)), addresses_(std::move(addresses)), gate_(gate) {}

GrpcServer::~GrpcServer() { server_->Shutdown(absl::ToChronoTime(absl::InfinitePast())); }

void GrpcServer::StopServing() {
  server_->GetHealthCheckService()->SetServingStatus(false);
  gate_.Close();
}

void GrpcServer::AwaitQuiet() const {
  const absl::Duration end = MonotonicNow() + kMaxRefusing;
  std::uint64_t calls = 0;
  do {
    calls = gate_.total_calls();
    absl::SleepFor(kQuiet);
  } while (gate_.total_calls() != calls && MonotonicNow() < end);
}

bool GrpcServer::Shutdown(absl::Time deadline) {
  const bool is_idle = gate_.AwaitIdle(deadline);
  if (is_idle) AwaitQuiet();
  // Calls that are on their way get their UNAVAILABLE. What is left then are watches, reflection
  // streams and calls out of time: cancelled.
  server_->Shutdown(absl::ToChronoTime(absl::Now() + (is_idle ? kGoodbye : absl::ZeroDuration())));
  server_->Wait();
  return is_idle;
}

}  // namespace theria::server
