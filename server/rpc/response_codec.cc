#include "server/rpc/response_codec.h"

#include <string>
#include <utility>
#include <vector>

#include "grpcpp/support/slice.h"
#include "proto/wire.h"
#include "theria/v1/tensor.pb.h"

namespace theria::server {
namespace {

using google::protobuf::FieldDescriptor;

// Takes the tensor's data; the slices of the field that holds it.
void AppendTensor(int field_number, v1::Tensor& tensor, std::vector<grpc::Slice>& slices) {
  auto* const data = new std::string(std::move(*tensor.mutable_data()));
  tensor.clear_data();
  std::string head = tensor.SerializeAsString();
  head += wire::TagAndSize(v1::Tensor::kDataFieldNumber, data->size());
  slices.emplace_back(wire::TagAndSize(field_number, head.size() + data->size()) + head);
  slices.emplace_back(
      data->data(), data->size(), [](void* owner) { delete static_cast<std::string*>(owner); },
      data);
}

}  // namespace

grpc::ByteBuffer EncodeResponse(google::protobuf::Message& response, std::size_t min_slice_bytes) {
  const google::protobuf::Reflection& reflection = *response.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(response, &fields);
  std::vector<grpc::Slice> slices(1);
  for (const FieldDescriptor* field : fields) {
    if (field->message_type() != v1::Tensor::descriptor()) continue;
    auto& tensor = static_cast<v1::Tensor&>(*reflection.MutableMessage(&response, field));
    if (tensor.data().size() < min_slice_bytes) continue;
    AppendTensor(field->number(), tensor, slices);
    reflection.ClearField(&response, field);
  }
  slices.front() = grpc::Slice(response.SerializeAsString());
  return {slices.data(), slices.size()};
}

}  // namespace theria::server
