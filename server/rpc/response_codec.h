#ifndef THERIA_SERVER_RPC_RESPONSE_CODEC_H_
#define THERIA_SERVER_RPC_RESPONSE_CODEC_H_

#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"

// The wire form of a response that holds tensors, written around their elements instead of through
// them: the transport sends those from where the computation wrote them.

namespace theria::server {

// The serialised `response`, of which tensors of at least `min_slice_bytes` lose their data to the
// result. REQUIRES: initialised, less than 2 GiB.
grpc::ByteBuffer EncodeResponse(google::protobuf::Message& response,
                                std::size_t min_slice_bytes = std::size_t{16} << 10);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_RESPONSE_CODEC_H_
