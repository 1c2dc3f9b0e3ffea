#ifndef THERIA_SERVER_RPC_SHARED_DOWNLOAD_H_
#define THERIA_SERVER_RPC_SHARED_DOWNLOAD_H_

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "kernels/api/memory.h"
#include "server/cache/tensor_store.h"
#include "server/rpc/shared_memory_codec.h"

// A Download into memory that the client shares: one copy, and one message that says what was
// copied, sent together with the call's status. Owns itself until OnDone.

namespace theria::server {

class SharedDownload final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  // REQUIRES: `target` is of the tensor's size. `memory` is the one that holds the tensor.
  static SharedDownload* Start(Memory& memory, const TensorLease& tensor, const SharedPart& target);

 private:
  void OnDone() override { delete this; }

  grpc::ByteBuffer message_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_SHARED_DOWNLOAD_H_
