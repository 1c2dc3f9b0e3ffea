#ifndef THERIA_SERVER_RPC_CHUNK_CODEC_H_
#define THERIA_SERVER_RPC_CHUNK_CODEC_H_

#include <cstddef>

#include "absl/status/status.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"
#include "theria/v1/tensor_store.pb.h"

// The wire form of the two streamed messages, read and written around the chunk's bytes instead of
// through them: generated code would copy each chunk into a string and out again.

namespace theria::server {

// What a message of an upload consists of, in the order in which it came. An error ends the
// reading.
class UploadVisitor {
 public:
  virtual ~UploadVisitor() = default;
  virtual absl::Status OnHeader(const v1::UploadHeader& header) = 0;
  // A chunk of so many bytes begins; they follow piece by piece.
  virtual absl::Status OnChunk(std::size_t size_bytes) = 0;
  virtual absl::Status OnBytes(const void* data, std::size_t size_bytes) = 0;
};

// Reads one serialised UploadRequest. Unknown fields are skipped, as protobuf does.
// Errors: INVALID_ARGUMENT for what is no UploadRequest or has not exactly one part; what the
// visitor gives.
absl::Status ReadUploadRequest(grpc::ByteBuffer& message, UploadVisitor& visitor);

// A serialised DownloadResponse that refers to `chunk`'s bytes, which may be none. `info` may be
// null.
grpc::ByteBuffer MakeDownloadResponse(const v1::TensorInfo* info, const grpc::Slice& chunk);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_CHUNK_CODEC_H_
