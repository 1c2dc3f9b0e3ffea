#include "client/cpp/src/attention_codec.h"

#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "client/cpp/src/message_codec.h"
#include "client/cpp/src/status_codec.h"
#include "client/cpp/src/text.h"

namespace theria::client {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// The field of that name, or null: the messages and our tables share their names.
const FieldDescriptor* Find(const Message& message, std::string_view name) {
  return message.GetDescriptor()->FindFieldByName(std::string(name));
}

v1::Tensor& MutableTensor(Message* message, const FieldDescriptor* field) {
  return static_cast<v1::Tensor&>(*message->GetReflection()->MutableMessage(message, field));
}

v1::OutputMode ToMessage(OutputMode mode) {
  switch (mode) {
    case OutputMode::kDefault:
      return v1::OUTPUT_MODE_UNSPECIFIED;
    case OutputMode::kSkip:
      return v1::SKIP;
    case OutputMode::kInline:
      return v1::INLINE;
    case OutputMode::kResident:
      return v1::RESIDENT;
  }
  return v1::OUTPUT_MODE_UNSPECIFIED;
}

v1::Implementation ToMessage(Implementation implementation) {
  switch (implementation) {
    case Implementation::kAuto:
      return v1::AUTO;
    case Implementation::kFused:
      return v1::FUSED;
    case Implementation::kUnfused:
      return v1::UNFUSED;
    case Implementation::kReference:
      return v1::REFERENCE;
  }
  return v1::IMPLEMENTATION_UNSPECIFIED;
}

v1::Precision ToMessage(Precision precision) {
  return precision == Precision::kFast ? v1::FAST : v1::STRICT;
}

v1::CausalAlignment ToMessage(CausalAlignment alignment) {
  return alignment == CausalAlignment::kLowerRight ? v1::LOWER_RIGHT : v1::UPPER_LEFT;
}

// Writes one plain option, by the type of its member; an absent one is left out.
class OptionWriter {
 public:
  OptionWriter(v1::AttentionOptions* message, std::string_view name)
      : message_(message), reflection_(*message->GetReflection()), field_(Find(*message, name)) {}

  void Write(bool value) const { reflection_.SetBool(message_, field_, value); }
  void Write(const std::optional<double>& value) const {
    if (value.has_value()) reflection_.SetDouble(message_, field_, *value);
  }
  void Write(const std::optional<Window>& value) const {
    if (!value.has_value()) return;
    auto& window = static_cast<v1::Window&>(*reflection_.MutableMessage(message_, field_));
    if (value->left.has_value()) window.set_left(*value->left);
    if (value->right.has_value()) window.set_right(*value->right);
  }
  void Write(const Dropout& value) const {
    if (value.probability == 0.0) return;
    auto& dropout = static_cast<v1::Dropout&>(*reflection_.MutableMessage(message_, field_));
    dropout.set_probability(value.probability);
    dropout.set_seed(value.seed);
    dropout.set_offset(value.offset);
  }
  template <typename Enum>
  requires std::is_enum_v<Enum>
  void Write(Enum value) const { reflection_.SetEnumValue(message_, field_, ToMessage(value)); }

 private:
  v1::AttentionOptions* const message_;
  const google::protobuf::Reflection& reflection_;
  const FieldDescriptor* const field_;
};

// Protobuf's limit, less room for all but the elements.
constexpr std::size_t kMaxElementBytes = (std::size_t{1} << 31) - (std::size_t{1} << 20);

absl::Status CheckSize(const AttentionRequest& request, const SharedRegions& regions) {
  std::size_t bytes = 0;
  for (const OptionTensor& option : kOptionTensors) {
    bytes += EncodedBytes(request.options.*option.member, regions);
  }
  for (const InputField& field : kInputFields) {
    bytes += EncodedBytes(request.*field.member, regions);
  }
  if (bytes <= kMaxElementBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(Text("the request's tensors have ", bytes,
                                         " bytes, a message can hold ", kMaxElementBytes,
                                         ": upload large ones with Put and pass what it returns"));
}

// From how many bytes on a tensor's elements leave the message: for fewer, copying costs less than
// slices of their own.
constexpr std::size_t kMinPayloadBytes = std::size_t{16} << 10;

// Encodes the tensor whose field in the request is at `path`.
void EncodeInput(const AnyTensor& tensor, const SharedRegions& regions, std::vector<int> path,
                 v1::Tensor* message, std::vector<Payload>* payloads) {
  const std::optional<Tensor> sent = EncodeTensorHead(tensor, message, regions);
  if (!sent.has_value()) return;
  if (sent->span_bytes() < kMinPayloadBytes) {
    message->set_data(sent->data(), sent->span_bytes());
    return;
  }
  path.push_back(v1::Tensor::kDataFieldNumber);
  payloads->push_back({std::move(path), ElementSlice(*sent, 0, sent->span_bytes())});
}

}  // namespace

void EncodeOptions(const AttentionOptions& options, v1::AttentionOptions* message) {
  ForEachPlainOption([&](const auto& option) {
    OptionWriter(message, option.name).Write(options.*option.member);
  });
}

void EncodeOutputs(const OutputSpec& outputs, v1::OutputSpec* message) {
  for (const OutputField& field : kOutputFields) {
    message->GetReflection()->SetEnumValue(message, Find(*message, field.name),
                                           ToMessage(outputs.*field.mode));
  }
  message->set_resident_ttl_ms(ToMilliseconds(outputs.resident_ttl));
}

absl::Status EncodeRequest(const AttentionRequest& request, const SharedRegions& regions,
                           Message* message, std::vector<Payload>* payloads) {
  if (absl::Status size = CheckSize(request, regions); !size.ok()) return size;
  for (const InputField& input : kInputFields) {
    const AnyTensor& tensor = request.*input.member;
    if (!tensor.has_value()) continue;
    const FieldDescriptor* const field = Find(*message, input.name);
    if (field == nullptr) {
      return InvalidField(input.name, "the operation does not read it, must be absent");
    }
    EncodeInput(tensor, regions, {field->number()}, &MutableTensor(message, field), payloads);
  }
  const FieldDescriptor* const options_field = Find(*message, "options");
  auto* const options = static_cast<v1::AttentionOptions*>(
      message->GetReflection()->MutableMessage(message, options_field));
  EncodeOptions(request.options, options);
  for (const OptionTensor& option : kOptionTensors) {
    const AnyTensor& tensor = request.options.*option.member;
    if (!tensor.has_value()) continue;
    const FieldDescriptor* const field = Find(*options, option.name);
    EncodeInput(tensor, regions, {options_field->number(), field->number()},
                &MutableTensor(options, field), payloads);
  }
  return absl::OkStatus();
}

absl::StatusOr<AttentionResult> DecodeResponse(Message* message,
                                               const std::shared_ptr<SharedRoom>& room) {
  AttentionResult result;
  for (const OutputField& output : kOutputFields) {
    const FieldDescriptor* const field = Find(*message, output.name);
    if (field == nullptr || !message->GetReflection()->HasField(*message, field)) continue;
    absl::StatusOr<AnyTensor> tensor = DecodeTensor(&MutableTensor(message, field), room);
    if (!tensor.ok()) return tensor.status();
    result.*output.member = *std::move(tensor);
  }
  result.execution = FromMessage(static_cast<const v1::ExecutionInfo&>(
      message->GetReflection()->GetMessage(*message, Find(*message, "execution"))));
  return result;
}

}  // namespace theria::client
