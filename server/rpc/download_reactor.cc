#include "server/rpc/download_reactor.h"

#include <algorithm>
#include <utility>

#include "server/rpc/chunk_codec.h"
#include "server/rpc/status_map.h"
#include "server/rpc/store_codec.h"

namespace theria::server {

DownloadReactor* DownloadReactor::Start(Memory& memory, TensorLease lease, std::size_t chunk_bytes,
                                        const TransferWatch::Limits& limits,
                                        RequestContext& context) {
  std::shared_ptr<DownloadReactor> reactor(
      new DownloadReactor(memory, std::move(lease), chunk_bytes, context));
  reactor->self_ = reactor;
  reactor->watch_ = TransferWatch::Start(limits, [reactor] { reactor->OnStalled(); });
  reactor->WriteNext();
  return reactor.get();
}

DownloadReactor::DownloadReactor(Memory& memory, TensorLease lease, std::size_t chunk_bytes,
                                 RequestContext& context)
    : memory_(memory),
      lease_(std::make_shared<TensorLease>(std::move(lease))),
      size_bytes_(lease_->spec().SizeBytes()),
      chunk_bytes_(chunk_bytes),
      context_(context) {}

void DownloadReactor::WriteNext() {
  if (written_bytes_ == size_bytes_) return FinishOnce(absl::OkStatus());
  in_flight_bytes_ = std::min(chunk_bytes_, size_bytes_ - written_bytes_);
  absl::StatusOr<grpc::Slice> chunk = ChunkAt(written_bytes_, in_flight_bytes_);
  if (!chunk.ok()) return FinishOnce(chunk.status());
  v1::TensorInfo info;
  const bool first = written_bytes_ == 0;
  if (first) EncodeTensorInfo(lease_->info(), info);
  message_ = MakeDownloadResponse(first ? &info : nullptr, *chunk);
  StartWrite(&message_);
}

absl::StatusOr<grpc::Slice> DownloadReactor::ChunkAt(std::size_t offset_bytes,
                                                     std::size_t size_bytes) {
  const char* const source = static_cast<const char*>(lease_->data()) + offset_bytes;
  if (memory_.host_accessible()) {
    // gRPC takes a slice's bytes as mutable but only reads what it sends.
    return grpc::Slice(
        const_cast<char*>(source), size_bytes,
        [](void* lease) { delete static_cast<std::shared_ptr<TensorLease>*>(lease); },
        new std::shared_ptr<TensorLease>(lease_));
  }
  grpc_slice staged = grpc_slice_malloc(size_bytes);
  absl::Status status = memory_.CopyToHost(GRPC_SLICE_START_PTR(staged), source, size_bytes);
  // Wrapped when it is filled: a short slice holds its bytes in itself.
  grpc::Slice chunk(staged, grpc::Slice::STEAL_REF);
  if (!status.ok()) return status;
  return chunk;
}

void DownloadReactor::OnWriteDone(bool ok) {
  if (!ok) return FinishOnce(absl::CancelledError("the download was cut"));
  written_bytes_ += in_flight_bytes_;
  watch_->Progress(in_flight_bytes_);
  WriteNext();
}

void DownloadReactor::OnStalled() {
  {
    const std::lock_guard lock(mutex_);
    if (finished_) return;
    cancelling_ = true;
  }
  // Finish would wait behind the write that the reader does not take; this ends it.
  context_.TryCancel();
  {
    const std::lock_guard lock(mutex_);
    cancelling_ = false;
    if (!deferred_.has_value()) return;
    finished_ = true;
  }
  Finish(ToGrpcStatus(*deferred_));
}

void DownloadReactor::FinishOnce(const absl::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    if (finished_) return;
    if (cancelling_) {
      deferred_ = status;
      return;
    }
    finished_ = true;
  }
  Finish(ToGrpcStatus(status));
}

void DownloadReactor::OnDone() {
  watch_->Stop();
  const std::shared_ptr<DownloadReactor> last_reference = std::move(self_);
}

}  // namespace theria::server
