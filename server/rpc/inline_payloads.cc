#include "server/rpc/inline_payloads.h"

#include <cstdint>
#include <string>
#include <utility>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "proto/wire.h"

namespace theria::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;

// From the request to a tensor. As protobuf merges a field that comes twice, one path is one
// tensor.
using Path = std::vector<const FieldDescriptor*>;

bool IsTensor(const FieldDescriptor& field) {
  return field.type() == FieldDescriptor::TYPE_MESSAGE && !field.is_repeated() &&
         field.message_type() == v1::Tensor::descriptor();
}

bool HoldsTensors(const FieldDescriptor& field) {
  if (field.type() != FieldDescriptor::TYPE_MESSAGE || field.is_repeated()) return false;
  const Descriptor& type = *field.message_type();
  for (int i = 0; i < type.field_count(); ++i) {
    if (IsTensor(*type.field(i))) return true;
  }
  return false;
}

// Copies a serialised request without its payloads.
class PayloadSieve {
 public:
  PayloadSieve(CodedInputStream& input, std::size_t min_payload_bytes)
      : input_(input), min_payload_bytes_(min_payload_bytes) {}

  const std::map<Path, InlinePayload>& payloads() const { return payloads_; }

  // A whole message of the type, up to the input's end or limit. Returns false if it is malformed.
  bool Copy(const Descriptor& type, std::string& copied) {
    StringOutputStream stream(&copied);
    CodedOutputStream output(&stream);
    while (const std::uint32_t tag = input_.ReadTag()) {
      const FieldDescriptor* const field =
          type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
      const bool is_of_length = field != nullptr && WireFormatLite::GetTagWireType(tag) ==
                                                        WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
      bool is_well_formed = false;
      if (is_of_length && &type == v1::Tensor::descriptor() &&
          field->number() == v1::Tensor::kDataFieldNumber) {
        is_well_formed = CopyData(tag, output);
      } else if (is_of_length && (IsTensor(*field) || HoldsTensors(*field))) {
        path_.push_back(field);
        is_well_formed = CopyNested(tag, *field->message_type(), output);
        path_.pop_back();
      } else {
        is_well_formed = WireFormatLite::SkipField(&input_, tag, &output);
      }
      if (!is_well_formed) return false;
    }
    return input_.ConsumedEntireMessage();
  }

 private:
  bool CopyNested(std::uint32_t tag, const Descriptor& type, CodedOutputStream& output) {
    int size_bytes = 0;
    if (!input_.ReadVarintSizeAsInt(&size_bytes)) return false;
    // The new limit is cut to the one around it, and to the input's end.
    const int left_bytes = input_.BytesUntilLimit();  // -1: no limit
    if (left_bytes >= 0 && size_bytes > left_bytes) return false;
    const CodedInputStream::Limit limit = input_.PushLimit(size_bytes);
    std::string nested;
    if (!Copy(type, nested) || input_.BytesUntilLimit() != 0) return false;
    input_.PopLimit(limit);
    output.WriteTag(tag);
    output.WriteVarint32(static_cast<std::uint32_t>(nested.size()));
    output.WriteString(nested);
    return true;
  }

  bool CopyData(std::uint32_t tag, CodedOutputStream& output) {
    int size_bytes = 0;
    if (!input_.ReadVarintSizeAsInt(&size_bytes)) return false;
    output.WriteTag(tag);
    payloads_.erase(path_);  // of the same field, before
    if (static_cast<std::size_t>(size_bytes) < min_payload_bytes_) {
      std::string data;
      if (!input_.ReadString(&data, size_bytes)) return false;
      output.WriteVarint32(static_cast<std::uint32_t>(size_bytes));
      output.WriteString(data);
      return true;
    }
    output.WriteVarint32(0);
    InlinePayload payload;
    payload.size_bytes = static_cast<std::size_t>(size_bytes);
    const auto add = [&payload](const char* data, std::size_t piece_bytes) {
      payload.pieces.emplace_back(data, piece_bytes);
      return true;
    };
    if (!wire::TakePieces(input_, payload.size_bytes, add)) return false;
    payloads_.emplace(path_, std::move(payload));
    return true;
  }

  CodedInputStream& input_;
  const std::size_t min_payload_bytes_;
  Path path_;
  std::map<Path, InlinePayload> payloads_;
};

const v1::Tensor& TensorAt(const Message& request, const Path& path) {
  const Message* message = &request;
  for (const FieldDescriptor* field : path) {
    message = &message->GetReflection()->GetMessage(*message, field);
  }
  return static_cast<const v1::Tensor&>(*message);
}

}  // namespace

bool ParseRequest(grpc::ByteBuffer& bytes, Message& request, InlinePayloads& payloads,
                  std::size_t min_payload_bytes) {
  payloads.clear();
  grpc::ProtoBufferReader reader(&bytes);
  if (bytes.Length() < min_payload_bytes) return request.ParseFromZeroCopyStream(&reader);
  CodedInputStream input(&reader);
  PayloadSieve sieve(input, min_payload_bytes);
  std::string rest;
  if (!sieve.Copy(*request.GetDescriptor(), rest) || !request.ParseFromString(rest)) return false;
  for (const auto& [path, payload] : sieve.payloads()) {
    payloads.emplace(&TensorAt(request, path), payload);
  }
  return true;
}

}  // namespace theria::server
