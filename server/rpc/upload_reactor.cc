#include "server/rpc/upload_reactor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "kernels/api/attention.h"
#include "kernels/api/message.h"
#include "server/rpc/shared_memory_codec.h"
#include "server/rpc/status_map.h"
#include "server/rpc/store_codec.h"

namespace theria::server {

UploadReactor* UploadReactor::Start(TensorStore& store, SharedRegions* regions, TenantId tenant,
                                    const TransferWatch::Limits& limits, RequestContext& context,
                                    grpc::ByteBuffer* response) {
  std::shared_ptr<UploadReactor> reactor(
      new UploadReactor(store, regions, std::move(tenant), context, response));
  reactor->self_ = reactor;
  reactor->watch_ = TransferWatch::Start(limits, [reactor] {
    reactor->Fail(absl::DeadlineExceededError("the upload stalled or is too slow"));
  });
  reactor->StartRead(&reactor->message_);
  return reactor.get();
}

UploadReactor::UploadReactor(TensorStore& store, SharedRegions* regions, TenantId tenant,
                             RequestContext& context, grpc::ByteBuffer* response)
    : store_(store),
      regions_(regions),
      tenant_(std::move(tenant)),
      context_(context),
      response_(response) {}

void UploadReactor::OnReadDone(bool ok) {
  if (!ok) return Complete();
  const std::size_t written_before = written_bytes_;
  const absl::Status status = ReadUploadRequest(message_, *this);
  message_.Clear();
  if (!status.ok()) return Abandon(status);
  if (written_bytes_ > written_before) watch_->Progress(written_bytes_ - written_before);
  if (resident_.has_value()) {
    if (Claim()) Respond(*resident_, true);
    return;
  }
  StartRead(&message_);
}

absl::Status UploadReactor::OnHeader(const v1::UploadHeader& header) {
  if (pending_.has_value()) return InvalidField("header", "came twice");
  absl::StatusOr<UploadSpec> upload = DecodeUploadHeader(header);
  if (!upload.ok()) return upload.status();
  if (upload->sha256.has_value() && header.has_shared_memory()) {
    // The client may write there while it is hashed and copied.
    return InvalidField("header.sha256", "must be empty where the elements are in shared memory");
  }
  if (upload->sha256.has_value()) {
    auto found =
        store_.FindContent(tenant_, upload->spec, *upload->sha256, upload->ttl, upload->pin);
    if (!found.ok()) return FromStoreInHeader(found.status());
    resident_ = *std::move(found);
    if (resident_.has_value()) return absl::OkStatus();
    expected_sha256_ = upload->sha256;
    sha256_.emplace();
  }
  auto pending = store_.Create(tenant_, std::move(upload->spec), upload->ttl, upload->pin);
  if (!pending.ok()) return FromStoreInHeader(pending.status());
  size_bytes_ = pending->spec().SizeBytes();
  pending_ = *std::move(pending);
  return header.has_shared_memory() ? CopyShared(header.shared_memory()) : absl::OkStatus();
}

absl::Status UploadReactor::CopyShared(const v1::SharedMemoryRef& reference) {
  constexpr std::string_view kField = "header.shared_memory";
  const absl::StatusOr<SharedPart> part = DecodeSharedMemory(reference, regions_, tenant_, kField);
  if (!part.ok()) return part.status();
  if (part->size_bytes != size_bytes_) {
    return InvalidField(Message(kField, ".size_bytes"),
                        absl::StrCat("is ", part->size_bytes, ", must be ", size_bytes_));
  }
  written_bytes_ = size_bytes_;
  Memory& memory = store_.memory();
  return part->region->is_on_device()
             ? memory.CopyWithin(pending_->data(), part->data(), size_bytes_)
             : memory.CopyFromHost(pending_->data(), part->data(), size_bytes_);
}

absl::Status UploadReactor::OnChunk(std::size_t size_bytes) {
  if (!pending_.has_value()) return InvalidField("header", "is missing, must come first");
  if (size_bytes > size_bytes_ - written_bytes_) {
    return InvalidField("chunk", absl::StrCat("brings ", written_bytes_ + size_bytes,
                                              " bytes in all, must bring ", size_bytes_));
  }
  return absl::OkStatus();
}

absl::Status UploadReactor::OnBytes(const void* data, std::size_t size_bytes) {
  if (sha256_.has_value()) sha256_->Update(data, size_bytes);
  char* const destination = static_cast<char*>(pending_->data()) + written_bytes_;
  written_bytes_ += size_bytes;
  return store_.memory().CopyFromHost(destination, data, size_bytes);
}

absl::Status UploadReactor::CheckComplete() {
  if (context_.IsCancelled()) return absl::CancelledError("the upload was cut");
  if (!pending_.has_value()) return InvalidField("header", "is missing, must come first");
  if (written_bytes_ != size_bytes_) {
    return InvalidField("chunk", absl::StrCat("brings ", written_bytes_,
                                              " bytes in all, must bring ", size_bytes_));
  }
  if (!sha256_.has_value()) return absl::OkStatus();
  const absl::StatusOr<Sha256Digest> digest = sha256_->Finish();
  if (!digest.ok()) return digest.status();
  if (*digest != *expected_sha256_) {
    return InvalidField("header.sha256", "is not the digest of the bytes that came");
  }
  return absl::OkStatus();
}

void UploadReactor::Complete() {
  if (absl::Status status = CheckComplete(); !status.ok()) return Abandon(status);
  if (!Claim()) return;
  const TensorInfo info = std::move(*pending_).Commit(expected_sha256_);
  if (!expected_sha256_.has_value()) unclaimed_handle_ = info.handle;
  Respond(info, false);
}

void UploadReactor::Respond(const TensorInfo& info, bool already_resident) {
  v1::UploadResponse response;
  EncodeTensorInfo(info, *response.mutable_info());
  response.set_already_resident(already_resident);
  bool own_buffer = false;
  const grpc::Status status =
      grpc::SerializationTraits<v1::UploadResponse>::Serialize(response, response_, &own_buffer);
  context_.record()->request_bytes = written_bytes_;
  Finish(status);
}

void UploadReactor::Abandon(const absl::Status& status) {
  pending_.reset();
  Fail(status);
}

void UploadReactor::Fail(const absl::Status& status) {
  if (!Claim()) return;
  context_.record()->request_bytes = watch_->transferred_bytes();
  Finish(ToGrpcStatus(status));
}

void UploadReactor::OnDone() {
  watch_->Stop();
  // Cut after the last byte: the answer did not go out, so nobody can ever name the tensor.
  if (!unclaimed_handle_.empty() && context_.IsCancelled()) {
    store_.Delete(tenant_, unclaimed_handle_).IgnoreError();
  }
  const std::shared_ptr<UploadReactor> last_reference = std::move(self_);
}

}  // namespace theria::server
