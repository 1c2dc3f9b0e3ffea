#include "server/rpc/options_codec.h"

#include <string>
#include <utility>

#include "kernels/api/message.h"

namespace theria::server {
namespace {

absl::Status NoEnumerator(std::string_view field, int value, std::string_view kind) {
  return InvalidField(field, Message("is ", value, ", which is no ", kind));
}

absl::StatusOr<Precision> DecodePrecision(int wire_precision) {
  switch (wire_precision) {
    case v1::PRECISION_UNSPECIFIED:
    case v1::STRICT:
      return Precision::kStrict;
    case v1::FAST:
      return Precision::kFast;
    default:
      return NoEnumerator("options.precision", wire_precision, "precision");
  }
}

absl::StatusOr<Implementation> DecodeImplementation(int wire_implementation) {
  switch (wire_implementation) {
    case v1::IMPLEMENTATION_UNSPECIFIED:
    case v1::AUTO:
      return Implementation::kAuto;
    case v1::FUSED:
      return Implementation::kFused;
    case v1::UNFUSED:
      return Implementation::kUnfused;
    case v1::REFERENCE:
      return Implementation::kReference;
    default:
      return NoEnumerator("options.implementation", wire_implementation, "implementation");
  }
}

absl::StatusOr<CausalAlignment> DecodeAlignment(int wire_alignment) {
  switch (wire_alignment) {
    case v1::UPPER_LEFT:
      return CausalAlignment::kUpperLeft;
    case v1::LOWER_RIGHT:
      return CausalAlignment::kLowerRight;
    default:
      return NoEnumerator("options.causal_alignment", wire_alignment, "alignment");
  }
}

}  // namespace

const v1::Tensor* WireTensor(const v1::AttentionOptions& options, const OptionTensor& tensor) {
  const google::protobuf::FieldDescriptor* const field =
      v1::AttentionOptions::descriptor()->FindFieldByName(std::string(tensor.name));
  const google::protobuf::Reflection& reflection = *options.GetReflection();
  if (!reflection.HasField(options, field)) return nullptr;
  return static_cast<const v1::Tensor*>(&reflection.GetMessage(options, field));
}

absl::StatusOr<AttentionOptions> DecodeOptions(const v1::AttentionOptions& options,
                                               TensorDecoder& decoder) {
  AttentionOptions decoded;
  if (options.has_scale()) decoded.scale = options.scale();
  decoded.is_causal = options.is_causal();
  if (options.has_window()) {
    Window& window = decoded.window.emplace();
    if (options.window().has_left()) window.left = options.window().left();
    if (options.window().has_right()) window.right = options.window().right();
  }
  if (options.has_softcap()) decoded.softcap = options.softcap();
  decoded.deterministic = options.deterministic();
  const absl::StatusOr<CausalAlignment> alignment = DecodeAlignment(options.causal_alignment());
  if (!alignment.ok()) return alignment.status();
  decoded.causal_alignment = *alignment;
  for (const OptionTensor& tensor : kOptionTensors) {
    const v1::Tensor* const wire = WireTensor(options, tensor);
    if (wire == nullptr) continue;
    absl::StatusOr<std::optional<TensorView>> view = decoder.Decode(*wire, tensor.path);
    if (!view.ok()) return view.status();
    decoded.*tensor.member = *view;
  }
  decoded.dropout = {options.dropout().probability(), options.dropout().seed(),
                     options.dropout().offset()};
  const absl::StatusOr<Precision> precision = DecodePrecision(options.precision());
  if (!precision.ok()) return precision.status();
  decoded.precision = *precision;
  const absl::StatusOr<Implementation> implementation =
      DecodeImplementation(options.implementation());
  if (!implementation.ok()) return implementation.status();
  decoded.implementation = *implementation;
  return decoded;
}

absl::StatusOr<Operation> DecodeOperation(int wire_operation, std::string_view field) {
  switch (wire_operation) {
    case v1::FORWARD:
      return Operation::kForward;
    case v1::VJP:
      return Operation::kVjp;
    case v1::JVP:
      return Operation::kJvp;
    case v1::HVP:
      return Operation::kHvp;
    default:
      return NoEnumerator(field, wire_operation, "operation");
  }
}

v1::Operation EncodeOperation(Operation operation) {
  switch (operation) {
    case Operation::kForward:
      return v1::FORWARD;
    case Operation::kVjp:
      return v1::VJP;
    case Operation::kJvp:
      return v1::JVP;
    case Operation::kHvp:
      return v1::HVP;
  }
  return v1::OPERATION_UNSPECIFIED;
}

v1::Implementation EncodeImplementation(Implementation implementation) {
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

}  // namespace theria::server
