#ifndef THERIA_SERVER_RPC_INLINE_PAYLOADS_H_
#define THERIA_SERVER_RPC_INLINE_PAYLOADS_H_

#include <cstddef>
#include <map>
#include <vector>

#include "absl/types/span.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"
#include "theria/v1/tensor.pb.h"

// Requests whose large inline tensors stay where the transport put them, so that their bytes are
// copied once: to where they are computed on.

namespace theria::server {

// The bytes of a tensor's `data`, in order.
struct InlinePayload {
  std::vector<absl::Span<const char>> pieces;
  std::size_t size_bytes = 0;
};

// By the tensor of the parsed request, whose own `data` is then empty.
using InlinePayloads = std::map<const v1::Tensor*, InlinePayload>;

constexpr std::size_t kMinPayloadBytes = std::size_t{64} << 10;

// Parses `bytes` into `request`, but for the data of tensors in its fields, and in the fields of
// those, that take at least `min_payload_bytes`: these are left in `bytes`, which must outlive
// `payloads`, as must `request`. Returns false if they are not such a message, but is more lenient
// than protobuf's parser with tags and sizes of more bytes than they need.
bool ParseRequest(grpc::ByteBuffer& bytes, google::protobuf::Message& request,
                  InlinePayloads& payloads, std::size_t min_payload_bytes = kMinPayloadBytes);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_INLINE_PAYLOADS_H_
