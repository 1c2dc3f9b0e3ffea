#ifndef THERIA_CLIENT_CPP_SRC_RAW_CALL_H_
#define THERIA_CLIENT_CPP_SRC_RAW_CALL_H_

#include <memory>
#include <string>

#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/status.h"

// Calls whose messages are bytes: generated stubs would copy a tensor's elements into and out of
// strings.

namespace theria::client {

// A unary call, blocking. Errors: as the call's.
grpc::Status CallRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     grpc::ClientContext* context, const grpc::ByteBuffer& request,
                     grpc::ByteBuffer* response);

// A streamed call, blocking and of one thread. The first message carries the call's metadata, so
// that a short call goes out at once. REQUIRES: `context` outlives it; Finish is called.
class RawStream {
 public:
  RawStream(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
            grpc::ClientContext* context);
  ~RawStream();
  RawStream(const RawStream&) = delete;
  RawStream& operator=(const RawStream&) = delete;

  // False: the call has ended, Finish says how.
  bool Write(const grpc::ByteBuffer& message, grpc::WriteOptions options = {});
  bool Read(grpc::ByteBuffer* message);

  grpc::Status Finish();

 private:
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_RAW_CALL_H_
