#include "client/cpp/src/download_codec.h"

#include <algorithm>
#include <cstdint>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "theria/v1/tensor_store.pb.h"

namespace theria::client {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr std::uint32_t Tag(int field_number) {
  return WireFormatLite::MakeTag(field_number, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

absl::Status Malformed() {
  return absl::InternalError("the server's message is no DownloadResponse");
}

absl::Status ReadInfo(CodedInputStream& input, std::optional<TensorBuilder>& builder) {
  v1::TensorInfo info;
  std::uint32_t size_bytes = 0;
  if (!input.ReadVarint32(&size_bytes)) return Malformed();
  const CodedInputStream::Limit limit = input.PushLimit(static_cast<int>(size_bytes));
  // The limit is cut to the message's end: an info that claims more has bytes left to read.
  if (!info.ParseFromCodedStream(&input) || input.BytesUntilLimit() != 0) return Malformed();
  input.PopLimit(limit);
  return TensorBuilder::Begin(info, builder);
}

absl::Status ReadChunk(CodedInputStream& input, TensorBuilder& builder) {
  std::uint32_t left_bytes = 0;
  if (!input.ReadVarint32(&left_bytes)) return Malformed();
  while (left_bytes > 0) {
    const void* data = nullptr;
    int available_bytes = 0;
    if (!input.GetDirectBufferPointer(&data, &available_bytes)) return Malformed();
    const std::uint32_t size_bytes =
        std::min(left_bytes, static_cast<std::uint32_t>(available_bytes));
    const absl::Status status = builder.Append({static_cast<const char*>(data), size_bytes});
    if (!status.ok()) return status;
    input.Skip(static_cast<int>(size_bytes));
    left_bytes -= size_bytes;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadDownloadResponse(grpc::ByteBuffer& message,
                                  std::optional<TensorBuilder>& builder) {
  grpc::ProtoBufferReader reader(&message);
  CodedInputStream input(&reader);
  while (const std::uint32_t tag = input.ReadTag()) {
    absl::Status status;
    if (tag == Tag(v1::DownloadResponse::kInfoFieldNumber)) {
      status = ReadInfo(input, builder);
    } else if (tag == Tag(v1::DownloadResponse::kChunkFieldNumber)) {
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
