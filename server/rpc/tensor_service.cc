#include "server/rpc/tensor_service.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "kernels/api/attention.h"
#include "kernels/api/message.h"
#include "server/rpc/download_reactor.h"
#include "server/rpc/shared_download.h"
#include "server/rpc/shared_memory_codec.h"
#include "server/rpc/status_map.h"
#include "server/rpc/store_codec.h"
#include "server/rpc/upload_reactor.h"

namespace theria::server {
namespace {

// A stream that ends before it began.
template <typename Reactor>
class FailedStream final : public Reactor {
 public:
  explicit FailedStream(const absl::Status& status) { this->Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

// Answers with the tensor's state, or with why there is none.
grpc::ServerUnaryReactor* ReplyInfo(grpc::CallbackServerContext* context,
                                    const absl::StatusOr<TensorInfo>& info,
                                    const std::string& handle, v1::TensorInfo* encoded) {
  if (!info.ok()) return Reply(context, FromStore(info.status(), handle));
  EncodeTensorInfo(*info, *encoded);
  return Reply(context, absl::OkStatus());
}

// Where a download of `size_bytes` goes, if not through the stream.
absl::StatusOr<std::optional<SharedPart>> DownloadTarget(const v1::DownloadRequest& request,
                                                         std::size_t size_bytes,
                                                         SharedRegions* regions,
                                                         const TenantId& tenant) {
  if (!request.has_shared_memory()) return std::nullopt;
  constexpr std::string_view kField = "shared_memory";
  absl::StatusOr<SharedPart> target =
      DecodeSharedMemory(request.shared_memory(), regions, tenant, kField);
  if (!target.ok()) return target.status();
  if (target->size_bytes != size_bytes) {
    return InvalidField(Message(kField, ".size_bytes"),
                        absl::StrCat("is ", target->size_bytes, ", must be ", size_bytes));
  }
  return *std::move(target);
}

}  // namespace

TensorService::TensorService(TensorStore& store, const Admission& admission,
                             TensorServiceOptions options, SharedRegions* regions)
    : store_(store), admission_(admission), options_(options), regions_(regions) {}

grpc::ServerReadReactor<grpc::ByteBuffer>* TensorService::Upload(
    grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  RequestContext& caller = RequestContext::Of(context);
  if (absl::Status status = admission_.Admit(caller); !status.ok()) {
    return new FailedStream<grpc::ServerReadReactor<grpc::ByteBuffer>>(status);
  }
  return UploadReactor::Start(store_, regions_, caller.tenant(), options_.transfer, caller,
                              response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* TensorService::Download(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  using Failed = FailedStream<grpc::ServerWriteReactor<grpc::ByteBuffer>>;
  RequestContext& caller = RequestContext::Of(context);
  if (absl::Status status = admission_.Admit(caller); !status.ok()) return new Failed(status);
  v1::DownloadRequest parsed;
  grpc::ByteBuffer buffer(*request);
  if (!grpc::SerializationTraits<v1::DownloadRequest>::Deserialize(&buffer, &parsed).ok()) {
    return new Failed(absl::InvalidArgumentError("the message is no DownloadRequest"));
  }
  absl::StatusOr<TensorLease> lease = store_.Acquire(caller.tenant(), parsed.handle());
  if (!lease.ok()) return new Failed(FromStore(lease.status(), parsed.handle()));
  absl::StatusOr<std::optional<SharedPart>> target =
      DownloadTarget(parsed, lease->spec().SizeBytes(), regions_, caller.tenant());
  if (!target.ok()) return new Failed(target.status());
  if (target->has_value()) return SharedDownload::Start(store_.memory(), *lease, **target);
  const std::size_t chunk_bytes =
      parsed.chunk_bytes() == 0
          ? options_.default_chunk_bytes
          : std::clamp<std::size_t>(parsed.chunk_bytes(), options_.min_chunk_bytes,
                                    options_.max_chunk_bytes);
  return DownloadReactor::Start(store_.memory(), *std::move(lease), chunk_bytes, options_.transfer,
                                caller);
}

grpc::ServerUnaryReactor* TensorService::Stat(grpc::CallbackServerContext* context,
                                              const v1::StatRequest* request,
                                              v1::StatResponse* response) {
  RequestContext& caller = RequestContext::Of(context);
  if (absl::Status status = admission_.Admit(caller); !status.ok()) return Reply(context, status);
  return ReplyInfo(context, store_.Stat(caller.tenant(), request->handle()), request->handle(),
                   response->mutable_info());
}

grpc::ServerUnaryReactor* TensorService::List(grpc::CallbackServerContext* context,
                                              const v1::ListRequest* request,
                                              v1::ListResponse* response) {
  RequestContext& caller = RequestContext::Of(context);
  if (absl::Status status = admission_.Admit(caller); !status.ok()) return Reply(context, status);
  if (request->page_size() < 0) {
    return Reply(context, InvalidField("page_size", absl::StrCat("is ", request->page_size(),
                                                                 ", must not be negative")));
  }
  const int page_size = request->page_size() == 0
                            ? options_.default_page_size
                            : std::min(request->page_size(), options_.max_page_size);
  auto page = store_.List(caller.tenant(), page_size, request->page_token());
  if (!page.ok()) return Reply(context, page.status());
  for (const TensorInfo& info : page->tensors) EncodeTensorInfo(info, *response->add_tensors());
  response->set_next_page_token(std::move(page->next_page_token));
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* TensorService::Renew(grpc::CallbackServerContext* context,
                                               const v1::RenewRequest* request,
                                               v1::RenewResponse* response) {
  RequestContext& caller = RequestContext::Of(context);
  if (absl::Status status = admission_.Admit(caller); !status.ok()) return Reply(context, status);
  return ReplyInfo(
      context,
      store_.Renew(caller.tenant(), request->handle(), absl::Milliseconds(request->ttl_ms())),
      request->handle(), response->mutable_info());
}

grpc::ServerUnaryReactor* TensorService::Pin(grpc::CallbackServerContext* context,
                                             const v1::PinRequest* request,
                                             v1::PinResponse* response) {
  RequestContext& caller = RequestContext::Of(context);
  if (absl::Status status = admission_.Admit(caller); !status.ok()) return Reply(context, status);
  return ReplyInfo(
      context,
      store_.Pin(caller.tenant(), request->handle(), absl::Milliseconds(request->pin_ms())),
      request->handle(), response->mutable_info());
}

grpc::ServerUnaryReactor* TensorService::Unpin(grpc::CallbackServerContext* context,
                                               const v1::UnpinRequest* request,
                                               v1::UnpinResponse* response) {
  RequestContext& caller = RequestContext::Of(context);
  if (absl::Status status = admission_.Admit(caller); !status.ok()) return Reply(context, status);
  return ReplyInfo(context, store_.Unpin(caller.tenant(), request->handle()), request->handle(),
                   response->mutable_info());
}

grpc::ServerUnaryReactor* TensorService::Delete(grpc::CallbackServerContext* context,
                                                const v1::DeleteRequest* request,
                                                v1::DeleteResponse* /*response*/) {
  RequestContext& caller = RequestContext::Of(context);
  if (absl::Status status = admission_.Admit(caller); !status.ok()) return Reply(context, status);
  return Reply(context,
               FromStore(store_.Delete(caller.tenant(), request->handle()), request->handle()));
}

}  // namespace theria::server
