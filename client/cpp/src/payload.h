#ifndef THERIA_CLIENT_CPP_SRC_PAYLOAD_H_
#define THERIA_CLIENT_CPP_SRC_PAYLOAD_H_

#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "google/protobuf/message_lite.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"
#include "theria/tensor.h"

// The wire form of messages that carry elements, written around these instead of through them:
// generated code would copy them into a string and out again.

namespace theria::client {

// The bytes of one field of a message, which itself is without them.
struct Payload {
  std::vector<int> path;  // field numbers: of the message's field, of that one's field, ...
  grpc::Slice bytes;
};

// `size_bytes` of the memory of `tensor` from `offset_bytes` on, for gRPC to send. Elements that
// the tensor owns are sent from where they are and live until gRPC has let go of them, which may be
// after the call's end: a transport that cannot write keeps what it took, even of a call that is
// cancelled. Borrowed ones, which the caller may free when the call ends, are therefore copied.
grpc::Slice ElementSlice(const Tensor& tensor, std::size_t offset_bytes, std::size_t size_bytes);

// The serialised `message` with its payloads. Whoever parses it merges both: of a field that comes
// twice, as protobuf does. REQUIRES: initialised, less than 2 GiB.
grpc::ByteBuffer EncodeMessage(const google::protobuf::MessageLite& message,
                               absl::Span<const Payload> payloads = {});

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_PAYLOAD_H_
