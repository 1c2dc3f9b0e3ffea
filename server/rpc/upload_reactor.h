#ifndef THERIA_SERVER_RPC_UPLOAD_REACTOR_H_
#define THERIA_SERVER_RPC_UPLOAD_REACTOR_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/cache/sha256.h"
#include "server/cache/shared_regions.h"
#include "server/cache/tensor_store.h"
#include "server/rpc/chunk_codec.h"
#include "server/rpc/request_context.h"
#include "server/rpc/transfer_watch.h"

// One Upload under way: header, then bytes straight into the pending tensor, then the commit at the
// end of the stream. Whatever ends it earlier leaves nothing. Owns itself until OnDone.

namespace theria::server {

class UploadReactor final : public grpc::ServerReadReactor<grpc::ByteBuffer>,
                            public std::enable_shared_from_this<UploadReactor>,
                            private UploadVisitor {
 public:
  // `response` gets the serialised UploadResponse.
  static UploadReactor* Start(TensorStore& store, SharedRegions* regions, TenantId tenant,
                              const TransferWatch::Limits& limits, RequestContext& context,
                              grpc::ByteBuffer* response);

 private:
  UploadReactor(TensorStore& store, SharedRegions* regions, TenantId tenant,
                RequestContext& context, grpc::ByteBuffer* response);

  void OnReadDone(bool ok) override;
  void OnDone() override;

  absl::Status OnHeader(const v1::UploadHeader& header) override;
  absl::Status OnChunk(std::size_t size_bytes) override;
  absl::Status OnBytes(const void* data, std::size_t size_bytes) override;
  // The whole tensor, from where the client shares it.
  absl::Status CopyShared(const v1::SharedMemoryRef& reference);

  // The stream has ended as it should: all there, and what it claims to be?
  absl::Status CheckComplete();
  void Complete();
  void Respond(const TensorInfo& info, bool already_resident);

  // Whether the caller is the one to finish the call.
  bool Claim() { return !finished_.exchange(true); }
  void Fail(const absl::Status& status);
  // The same from a reaction to a read, which may touch the pending tensor: its bytes are free
  // before the client hears of the failure.
  void Abandon(const absl::Status& status);

  TensorStore& store_;
  SharedRegions* const regions_;  // null: no memory is shared
  const TenantId tenant_;
  RequestContext& context_;
  grpc::ByteBuffer* const response_;
  std::shared_ptr<TransferWatch> watch_;
  std::shared_ptr<UploadReactor> self_;
  std::atomic<bool> finished_{false};

  grpc::ByteBuffer message_;
  std::optional<PendingTensor> pending_;
  std::optional<Sha256Digest> expected_sha256_;
  std::optional<Sha256> sha256_;
  std::optional<TensorInfo> resident_;  // found by content
  std::size_t size_bytes_ = 0;
  std::size_t written_bytes_ = 0;
  std::string unclaimed_handle_;  // of a tensor that the answer alone names
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_UPLOAD_REACTOR_H_
