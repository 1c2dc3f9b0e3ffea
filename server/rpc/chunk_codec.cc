#include "server/rpc/chunk_codec.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "kernels/api/attention.h"

namespace theria::server {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

constexpr std::uint32_t Tag(int field_number) {
  return WireFormatLite::MakeTag(field_number, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

absl::Status Malformed() { return absl::InvalidArgumentError("the message is no UploadRequest"); }

absl::Status ReadHeader(CodedInputStream& input, UploadVisitor& visitor) {
  v1::UploadHeader header;
  std::uint32_t size_bytes = 0;
  if (!input.ReadVarint32(&size_bytes)) return Malformed();
  const CodedInputStream::Limit limit = input.PushLimit(static_cast<int>(size_bytes));
  // The limit is cut to the message's end: a header that claims more has bytes left to read.
  if (!header.ParseFromCodedStream(&input) || input.BytesUntilLimit() != 0) return Malformed();
  input.PopLimit(limit);
  return visitor.OnHeader(header);
}

absl::Status ReadChunk(CodedInputStream& input, UploadVisitor& visitor) {
  std::uint32_t left_bytes = 0;
  if (!input.ReadVarint32(&left_bytes)) return Malformed();
  if (absl::Status status = visitor.OnChunk(left_bytes); !status.ok()) return status;
  while (left_bytes > 0) {
    const void* data = nullptr;
    int available_bytes = 0;
    if (!input.GetDirectBufferPointer(&data, &available_bytes)) return Malformed();
    const std::uint32_t size_bytes =
        std::min(left_bytes, static_cast<std::uint32_t>(available_bytes));
    if (absl::Status status = visitor.OnBytes(data, size_bytes); !status.ok()) return status;
    input.Skip(static_cast<int>(size_bytes));
    left_bytes -= size_bytes;
  }
  return absl::OkStatus();
}

void AppendTagAndSize(int field_number, std::size_t size_bytes, std::string& output) {
  std::array<std::uint8_t, 16> buffer;
  std::uint8_t* end = CodedOutputStream::WriteTagToArray(Tag(field_number), buffer.data());
  end = CodedOutputStream::WriteVarint32ToArray(static_cast<std::uint32_t>(size_bytes), end);
  output.append(buffer.data(), end);
}

}  // namespace

absl::Status ReadUploadRequest(grpc::ByteBuffer& message, UploadVisitor& visitor) {
  grpc::ProtoBufferReader reader(&message);
  CodedInputStream input(&reader);
  int parts = 0;
  while (const std::uint32_t tag = input.ReadTag()) {
    absl::Status status;
    if (tag == Tag(v1::UploadRequest::kHeaderFieldNumber)) {
      if (++parts == 1) status = ReadHeader(input, visitor);
    } else if (tag == Tag(v1::UploadRequest::kChunkFieldNumber)) {
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
    AppendTagAndSize(v1::DownloadResponse::kInfoFieldNumber, info->ByteSizeLong(), prefix);
    info->AppendToString(&prefix);
  }
  AppendTagAndSize(v1::DownloadResponse::kChunkFieldNumber, chunk.size(), prefix);
  const std::array<grpc::Slice, 2> slices = {grpc::Slice(prefix), chunk};
  return grpc::ByteBuffer(slices.data(), slices.size());
}

}  // namespace theria::server
