#include "client/cpp/src/download_codec.h"

#include <cstdint>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "proto/wire.h"
#include "theria/v1/tensor_store.pb.h"

namespace theria::client {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

absl::Status Malformed() {
  return absl::InternalError("the server's message is no DownloadResponse");
}

absl::Status ReadInfo(CodedInputStream& input, std::optional<TensorBuilder>& builder) {
  v1::TensorInfo info;
  return wire::ReadMessage(input, info) ? TensorBuilder::Begin(info, builder) : Malformed();
}

absl::Status ReadChunk(CodedInputStream& input, TensorBuilder& builder) {
  std::uint32_t size_bytes = 0;
  if (!input.ReadVarint32(&size_bytes)) return Malformed();
  absl::Status status;
  const bool is_whole =
      wire::TakePieces(input, size_bytes, [&](const char* data, std::size_t piece_bytes) {
        status = builder.Append({data, piece_bytes});
        return status.ok();
      });
  return is_whole || !status.ok() ? status : Malformed();
}

}  // namespace

absl::Status ReadDownloadResponse(grpc::ByteBuffer& message,
                                  std::optional<TensorBuilder>& builder) {
  grpc::ProtoBufferReader reader(&message);
  CodedInputStream input(&reader);
  while (const std::uint32_t tag = input.ReadTag()) {
    absl::Status status;
    if (tag == wire::Tag(v1::DownloadResponse::kInfoFieldNumber)) {
      status = ReadInfo(input, builder);
    } else if (tag == wire::Tag(v1::DownloadResponse::kChunkFieldNumber)) {
      if (!builder.has_value()) return absl::InternalError("a chunk before the tensor's info");
      status = ReadChunk(input, *builder);
    } else if (!WireFormatLite::SkipField(&input, tag)) {
      return Malformed();
    }
    if (!status.ok()) return status;
  }
  if (!input.ConsumedEntireMessage()) return Malformed();
  return absl::OkStatus();
}

}  // namespace theria::client
