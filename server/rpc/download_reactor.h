#ifndef THERIA_SERVER_RPC_DOWNLOAD_REACTOR_H_
#define THERIA_SERVER_RPC_DOWNLOAD_REACTOR_H_

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "grpcpp/support/slice.h"
#include "server/cache/tensor_store.h"
#include "server/rpc/request_context.h"
#include "server/rpc/transfer_watch.h"

// One Download under way: a chunk is written when the one before it went out. The lease lives until
// the transport has let go of the last chunk's bytes. Owns itself until OnDone.

namespace theria::server {

class DownloadReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                              public std::enable_shared_from_this<DownloadReactor> {
 public:
  // REQUIRES: chunk_bytes > 0.
  static DownloadReactor* Start(Memory& memory, TensorLease lease, std::size_t chunk_bytes,
                                const TransferWatch::Limits& limits, RequestContext& context);

 private:
  DownloadReactor(Memory& memory, TensorLease lease, std::size_t chunk_bytes,
                  RequestContext& context);

  void OnWriteDone(bool ok) override;
  void OnDone() override;

  void WriteNext();
  absl::StatusOr<grpc::Slice> ChunkAt(std::size_t offset_bytes, std::size_t size_bytes);
  void OnStalled();
  void FinishOnce(const absl::Status& status);

  Memory& memory_;
  const std::shared_ptr<TensorLease> lease_;
  const std::size_t size_bytes_;
  const std::size_t chunk_bytes_;
  RequestContext& context_;
  std::shared_ptr<TransferWatch> watch_;
  std::shared_ptr<DownloadReactor> self_;

  grpc::ByteBuffer message_;  // in flight
  std::size_t written_bytes_ = 0;
  std::size_t in_flight_bytes_ = 0;

  // The context is valid until the call is finished: while it is being cancelled by the watch, the
  // end waits.
  std::mutex mutex_;
  bool finished_ = false;
  bool cancelling_ = false;
  std::optional<absl::Status> deferred_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_DOWNLOAD_REACTOR_H_
