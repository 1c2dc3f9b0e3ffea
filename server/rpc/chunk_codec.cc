#include "server/rpc/chunk_codec.h"

#include <array>
#include <cstdint>
#include <string>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "kernels/api/attention.h"
#include "proto/wire.h"

namespace theria::server {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

absl::Status Malformed() { return absl::InvalidArgumentError("the message is no UploadRequest"); }

absl::Status ReadHeader(CodedInputStream& input, UploadVisitor& visitor) {
  v1::UploadHeader header;
  return wire::ReadMessage(input, header) ? visitor.OnHeader(header) : Malformed();
}

absl::Status ReadChunk(CodedInputStream& input, UploadVisitor& visitor) {
  std::uint32_t size_bytes = 0;
  if (!input.ReadVarint32(&size_bytes)) return Malformed();
  absl::Status status = visitor.OnChunk(size_bytes);
  if (!status.ok()) return status;
  const bool is_whole =
      wire::TakePieces(input, size_bytes, [&](const char* data, std::size_t piece_bytes) {
        status = visitor.OnBytes(data, piece_bytes);
        return status.ok();
      });
  return is_whole || !status.ok() ? status : Malformed();
}

}  // namespace

absl::Status ReadUploadRequest(grpc::ByteBuffer& message, UploadVisitor& visitor) {
  grpc::ProtoBufferReader reader(&message);
  CodedInputStream input(&reader);
  int parts = 0;
  while (const std::uint32_t tag = input.ReadTag()) {
    absl::Status status;
    if (tag == wire::Tag(v1::UploadRequest::kHeaderFieldNumber)) {
      if (++parts == 1) status = ReadHeader(input, visitor);
    } else if (tag == wire::Tag(v1::UploadRequest::kChunkFieldNumber)) {
      if (++parts == 1) status = ReadChunk(input, visitor);
    } else if (!WireFormatLite::SkipField(&input, tag)) {
      return Malformed();
    }
    if (!status.ok()) return status;
    if (parts > 1) break;
  }
  if (parts != 1) {
    return InvalidField("part", "must be one header or one chunk in each message");
  }
  if (!input.ConsumedEntireMessage()) return Malformed();
  return absl::OkStatus();
}

grpc::ByteBuffer MakeDownloadResponse(const v1::TensorInfo* info, const grpc::Slice& chunk) {
  std::string prefix;
  if (info != nullptr) {
    prefix = wire::TagAndSize(v1::DownloadResponse::kInfoFieldNumber, info->ByteSizeLong());
    info->AppendToString(&prefix);
  }
  prefix += wire::TagAndSize(v1::DownloadResponse::kChunkFieldNumber, chunk.size());
  const std::array<grpc::Slice, 2> slices = {grpc::Slice(prefix), chunk};
  return grpc::ByteBuffer(slices.data(), slices.size());
}

}  // namespace theria::server
