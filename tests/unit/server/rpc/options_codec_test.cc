#include "server/rpc/options_codec.h"

#include <string>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "server/rpc/coalesce_key.h"

namespace theria::server {
namespace {

using google::protobuf::FieldDescriptor;

// Sets the field to what it is not by default.
void SetField(v1::AttentionOptions& options, const FieldDescriptor& field) {
  const google::protobuf::Reflection& reflection = *options.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_DOUBLE:
      reflection.SetDouble(&options, &field, 0.5);
      return;
    case FieldDescriptor::CPPTYPE_BOOL:
      reflection.SetBool(&options, &field, true);
      return;
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto& values = *field.enum_type();
      reflection.SetEnum(&options, &field, values.value(values.value_count() - 1));
      return;
    }
    default:
      break;
  }
  google::protobuf::Message& message = *reflection.MutableMessage(&options, &field);
  if (message.GetDescriptor() == v1::Window::descriptor()) {
    static_cast<v1::Window&>(message).set_left(1);
  } else if (message.GetDescriptor() == v1::Dropout::descriptor()) {
    static_cast<v1::Dropout&>(message).set_probability(0.5);
  } else {
    auto& tensor = static_cast<v1::Tensor&>(message);
    tensor.set_dtype(v1::FLOAT32);
    tensor.add_shape(1);
    tensor.set_data(std::string(4, '\0'));
  }
}

class OptionsCodecTest : public testing::Test {
 protected:
  std::string KeyOf(const v1::AttentionOptions& options) {
    AttentionTask task(TensorDecoder(store_, TenantId{}, /*max_tensor_bytes=*/64));
    task.inputs.options = DecodeOptions(options, task.decoder).value();
    task.problem.scale = task.inputs.options.scale.value_or(1.0);
    return CoalesceKey(task);
  }

  TensorStore store_{HostMemory(), {.capacity_bytes = std::size_t{1} << 20, .clock = [] {
                                      return absl::Now() - absl::UnixEpoch();
                                    }}};
};

// A field without a part in the codec or in the key would let requests be computed as one that are
// not alike.
TEST_F(OptionsCodecTest, EveryFieldOfTheWireIsDecodedAndTellsRequestsApart) {
  const std::string plain = KeyOf({});
  for (int i = 0; i < v1::AttentionOptions::descriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *v1::AttentionOptions::descriptor()->field(i);
    v1::AttentionOptions options;
    SetField(options, field);
    EXPECT_NE(KeyOf(options), plain) << field.name();
  }
}

}  // namespace
}  // namespace theria::server
