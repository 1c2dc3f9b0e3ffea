#include "client/cpp/src/grpc_connection.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/src/download_codec.h"
#include "client/cpp/src/health.h"
#include "client/cpp/src/message_codec.h"
#include "client/cpp/src/payload.h"
#include "client/cpp/src/raw_call.h"
#include "client/cpp/src/status_codec.h"
#include "client/cpp/src/target.h"
#include "client/cpp/src/text.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace theria::client {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;
constexpr char kUploadMethod[] = "/theria.v1.TensorService/Upload";
constexpr char kDownloadMethod[] = "/theria.v1.TensorService/Download";

grpc::Status UploadOnce(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext* context,
                        const v1::UploadHeader& header, const Tensor& tensor,
                        v1::UploadResponse* response) {
  // The header waits for the first chunk, and the last chunk takes the end of the stream along:
  // what is small goes out at once.
  const auto wait = grpc::WriteOptions().set_buffer_hint();
  const auto last = grpc::WriteOptions().set_last_message();
  const std::size_t size_bytes = header.has_shared_memory() ? 0 : tensor.size_bytes();
  RawStream stream(channel, kUploadMethod, context);
  v1::UploadRequest first;
  *first.mutable_header() = header;
  bool open = stream.Write(EncodeMessage(first), size_bytes == 0 ? last : wait);
  // A server that has heard enough (an error, a tensor that it already has) ends the stream early;
  // Finish then tells which.
  for (std::size_t sent = 0; open && sent < size_bytes;) {
    const std::size_t chunk_bytes = std::min(size_bytes - sent, kChunkBytes);
    const Payload chunk = {{v1::UploadRequest::kChunkFieldNumber},
                           ElementSlice(tensor, sent, chunk_bytes)};
    sent += chunk_bytes;
    open = stream.Write(EncodeMessage(v1::UploadRequest(), {&chunk, 1}),
                        sent == size_bytes ? last : grpc::WriteOptions());
  }
  grpc::ByteBuffer answer;
  const bool answered = stream.Read(&answer);
  grpc::Status status = stream.Finish();
  if (!status.ok()) return status;
  if (!answered) return {grpc::StatusCode::INTERNAL, "the server did not answer the upload"};
  return grpc::SerializationTraits<v1::UploadResponse>::Deserialize(&answer, response);
}

grpc::Status DownloadOnce(const std::shared_ptr<grpc::Channel>& channel,
                          grpc::ClientContext* context, const std::string& handle,
                          std::optional<TensorBuilder>& builder) {
  v1::DownloadRequest request;
  request.set_handle(handle);
  RawStream stream(channel, kDownloadMethod, context);
  stream.Write(EncodeMessage(request), grpc::WriteOptions().set_last_message());
  grpc::ByteBuffer message;
  absl::Status status;
  while (status.ok() && stream.Read(&message)) status = ReadDownloadResponse(message, builder);
  if (status.ok()) return stream.Finish();
  context->TryCancel();
  stream.Finish().IgnoreError();
  return {grpc::StatusCode::INTERNAL, std::string(status.message())};
}

grpc::Status DownloadSharedOnce(v1::TensorService::StubInterface& stub,
                                grpc::ClientContext* context, const v1::DownloadRequest& request) {
  const auto reader = stub.Download(context, request);
  v1::DownloadResponse message;
  while (reader->Read(&message)) {
    if (message.chunk().empty()) continue;
    context->TryCancel();
    reader->Finish().IgnoreError();
    return {grpc::StatusCode::INTERNAL, "the server sent elements that were to be shared"};
  }
  return reader->Finish();
}

// gRPC takes whole milliseconds in 31 bits; a month serves as well as any longer time.
int Milliseconds(absl::Duration duration) {
  const absl::Duration most = absl::Hours(24 * 24);
  return static_cast<int>(
      absl::ToInt64Milliseconds(absl::Ceil(std::min(duration, most), absl::Milliseconds(1))));
}

absl::Status CheckDurations(const ClientOptions& options) {
  if (options.connect_timeout <= absl::ZeroDuration()) {
    return InvalidField(
        "connect_timeout",
        absl::StrCat("is ", absl::FormatDuration(options.connect_timeout), ", must be positive"));
  }
  if (!options.keepalive.has_value()) return absl::OkStatus();
  if (options.keepalive->interval < absl::Seconds(1)) {
    return InvalidField("keepalive.interval",
                        absl::StrCat("is ", absl::FormatDuration(options.keepalive->interval),
                                     ", must be at least 1s"));
  }
  if (options.keepalive->timeout <= absl::ZeroDuration()) {
    return InvalidField("keepalive.timeout",
                        absl::StrCat("is ", absl::FormatDuration(options.keepalive->timeout),
                                     ", must be positive"));
  }
  return absl::OkStatus();
}

void ConfigureKeepalive(const KeepaliveOptions& options, grpc::ChannelArguments& arguments) {
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.interval));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.timeout));
  // A minute by default, during which newer versions of gRPC wait for any ping.
  arguments.SetInt("grpc.http2.ping_timeout_ms", Milliseconds(options.timeout));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, options.without_calls ? 1 : 0);
  // By default, gRPC stops pinging after two pings without data in between. A long computation
  // sends no data.
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

}  // namespace

Stubs Connect(const std::string& target, const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetMaxReceiveMessageSize(-1);
  // Channels with equal arguments share a TCP connection unless told otherwise.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, options.share_connection ? 0 : 1);
  // gRPC refuses calls while it waits to connect again; a wait longer than that between attempts
  // would let all of them fail.
  const auto initial_ms =
      static_cast<int>(absl::ToInt64Milliseconds(options.retry.initial_backoff));
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, std::max(initial_ms, 1));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // Despite its name, the time that each attempt to connect may take.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, Milliseconds(options.connect_timeout));
  if (options.keepalive.has_value()) ConfigureKeepalive(*options.keepalive, arguments);
  Stubs stubs;
  absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials =
      MakeChannelCredentials(options);
  stubs.usable = CheckTarget(target);
  stubs.usable.Update(credentials.status());
  stubs.usable.Update(CheckDurations(options));
  stubs.endpoint = {target, options.tls.has_value(), options.connect_timeout,
                    options.keepalive.value_or(KeepaliveOptions{}).timeout};
  if (options.tls.has_value() && !options.tls->server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.tls->server_name);
  }
  stubs.channel = grpc::CreateCustomChannel(
      target, credentials.ok() ? *credentials : grpc::InsecureChannelCredentials(), arguments);
  stubs.metadata = std::make_shared<CallMetadata>(options);
  stubs.tensors = v1::TensorService::NewStub(stubs.channel);
  stubs.shared_memory = v1::SharedMemoryService::NewStub(stubs.channel);
  stubs.server = v1::ServerService::NewStub(stubs.channel);
  return stubs;
}

GrpcConnection::GrpcConnection(Stubs stubs, const RetryPolicy& retry, RetryClock clock)
    : stubs_(std::move(stubs)), retrier_(retry, std::move(clock)) {}

template <typename Function>
absl::Status GrpcConnection::Call(CallContext& call, Function attempt) {
  bool is_first = true;
  return retrier_.Run(call.deadline, [&]() -> Attempt {
    if (!std::exchange(is_first, false) && call.before_retry) {
      if (absl::Status ready = call.before_retry(); !ready.ok()) return ready;
    }
    if (!stubs_.usable.ok()) return stubs_.usable;
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(call.deadline));
    if (stubs_.metadata != nullptr) {
      if (absl::Status added = stubs_.metadata->AddTo(context); !added.ok()) return added;
    }
    const absl::Time start = absl::Now();
    absl::Status status = FromGrpcStatus(attempt(&context));
    call.rpc_time = absl::Now() - start;
    return Explain(std::move(status));
  });
}

Attempt GrpcConnection::Explain(absl::Status status) const {
  // A server that stops cancels calls that reach it in that moment; no attempt cancels itself.
  if (absl::IsCancelled(status)) {
    return absl::UnavailableError(absl::StrCat("the server ended the call: ", status.message()));
  }
  if (absl::IsDeadlineExceeded(status) && stubs_.channel != nullptr &&
      stubs_.channel->GetState(/*try_to_connect=*/false) != GRPC_CHANNEL_READY) {
    return absl::DeadlineExceededError(
        absl::StrCat("the call's timeout passed without a connection to ", stubs_.endpoint.target));
  }
  if (!absl::IsUnavailable(status)) return status;
  const std::optional<ConnectFailure> failure =
      ExplainConnectFailure(stubs_.endpoint, std::string(status.message()));
  if (!failure.has_value()) return status;
  return {absl::UnavailableError(failure->message), failure->is_final};
}

template <typename Request, typename Response>
absl::Status GrpcConnection::CallAttention(std::string_view method, const Request& request,
                                           Response* response, CallContext& call) {
  return Call(call, [&](auto* context) {
    grpc::ByteBuffer answer;
    grpc::Status status = CallRaw(stubs_.channel, Text("/theria.v1.AttentionService/", method),
                                  context, EncodeMessage(request, call.payloads), &answer);
    if (!status.ok()) return status;
    return grpc::SerializationTraits<Response>::Deserialize(&answer, response);
  });
}

absl::Status GrpcConnection::Forward(const v1::ForwardRequest& request,
                                     v1::ForwardResponse* response, CallContext& call) {
  return CallAttention("Forward", request, response, call);
}

absl::Status GrpcConnection::Vjp(const v1::VjpRequest& request, v1::VjpResponse* response,
                                 CallContext& call) {
  return CallAttention("Vjp", request, response, call);
}

absl::Status GrpcConnection::Jvp(const v1::JvpRequest& request, v1::JvpResponse* response,
                                 CallContext& call) {
  return CallAttention("Jvp", request, response, call);
}

absl::Status GrpcConnection::Hvp(const v1::HvpRequest& request, v1::HvpResponse* response,
                                 CallContext& call) {
  return CallAttention("Hvp", request, response, call);
}

absl::Status GrpcConnection::Upload(const v1::UploadHeader& header, const Tensor& tensor,
                                    v1::UploadResponse* response, CallContext& call) {
  return Call(call, [&](auto* context) {
    return UploadOnce(stubs_.channel, context, header, tensor, response);
  });
}

absl::StatusOr<Tensor> GrpcConnection::Download(const std::string& handle, CallContext& call) {
  std::optional<TensorBuilder> builder;
  const absl::Status status = Call(call, [&](auto* context) {
    builder.reset();
    return DownloadOnce(stubs_.channel, context, handle, builder);
  });
  if (!status.ok()) return status;
  if (!builder.has_value()) return absl::InternalError("the server sent an empty download");
  return std::move(*builder).Finish();
}

absl::Status GrpcConnection::DownloadShared(const v1::DownloadRequest& request, CallContext& call) {
  return Call(call,
              [&](auto* context) { return DownloadSharedOnce(*stubs_.tensors, context, request); });
}

absl::Status GrpcConnection::Stat(const v1::StatRequest& request, v1::StatResponse* response,
                                  CallContext& call) {
  return Call(call,
              [&](auto* context) { return stubs_.tensors->Stat(context, request, response); });
}

absl::Status GrpcConnection::List(const v1::ListRequest& request, v1::ListResponse* response,
                                  CallContext& call) {
  return Call(call,
              [&](auto* context) { return stubs_.tensors->List(context, request, response); });
}

absl::Status GrpcConnection::Renew(const v1::RenewRequest& request, v1::RenewResponse* response,
                                   CallContext& call) {
  return Call(call,
              [&](auto* context) { return stubs_.tensors->Renew(context, request, response); });
}

absl::Status GrpcConnection::Pin(const v1::PinRequest& request, v1::PinResponse* response,
                                 CallContext& call) {
  return Call(call, [&](auto* context) { return stubs_.tensors->Pin(context, request, response); });
}

absl::Status GrpcConnection::Unpin(const v1::UnpinRequest& request, v1::UnpinResponse* response,
                                   CallContext& call) {
  return Call(call,
              [&](auto* context) { return stubs_.tensors->Unpin(context, request, response); });
}

absl::Status GrpcConnection::Delete(const v1::DeleteRequest& request, v1::DeleteResponse* response,
                                    CallContext& call) {
  return Call(call,
              [&](auto* context) { return stubs_.tensors->Delete(context, request, response); });
}

absl::Status GrpcConnection::CreateRegion(const v1::CreateRegionRequest& request,
                                          v1::RegionInfo* response, CallContext& call) {
  return Call(call, [&](auto* context) {
    return stubs_.shared_memory->CreateRegion(context, request, response);
  });
}

absl::Status GrpcConnection::RenewRegion(const v1::RenewRegionRequest& request,
                                         v1::RegionInfo* response, CallContext& call) {
  return Call(call, [&](auto* context) {
    return stubs_.shared_memory->RenewRegion(context, request, response);
  });
}

absl::Status GrpcConnection::DeleteRegion(const v1::DeleteRegionRequest& request,
                                          v1::DeleteRegionResponse* response, CallContext& call) {
  return Call(call, [&](auto* context) {
    return stubs_.shared_memory->DeleteRegion(context, request, response);
  });
}

absl::Status GrpcConnection::GetServerInfo(const v1::GetServerInfoRequest& request,
                                           v1::GetServerInfoResponse* response, CallContext& call) {
  return Call(call, [&](auto* context) {
    return stubs_.server->GetServerInfo(context, request, response);
  });
}

absl::Status GrpcConnection::RunBenchmark(const v1::RunBenchmarkRequest& request,
                                          v1::RunBenchmarkResponse* response, CallContext& call) {
  return Call(
      call, [&](auto* context) { return stubs_.server->RunBenchmark(context, request, response); });
}

absl::StatusOr<Health> GrpcConnection::CheckHealth(const std::string& service, CallContext& call) {
  Health health = Health::kNotServing;
  const absl::Status status = Call(call, [&](auto* context) {
    return client::CheckHealth(stubs_.channel, context, service, &health);
  });
  if (!status.ok()) return status;
  return health;
}

}  // namespace theria::client
