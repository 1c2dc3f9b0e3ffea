#include "client/cpp/src/attention_codec.h"

#include <optional>
#include <utility>

#include "client/cpp/src/message_codec.h"
#include "client/cpp/src/status_codec.h"
#include "client/cpp/src/text.h"

namespace theria::client {
namespace {

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

// Protobuf's limit, less room for all but the elements.
constexpr std::size_t kMaxElementBytes = (std::size_t{1} << 31) - (std::size_t{1} << 20);

absl::Status CheckSize(const AttentionRequest& request, const SharedRegions& regions) {
  std::size_t bytes = EncodedBytes(request.options.mask, regions);
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

// Encodes the field `name` if the operation's message has it; else its tensor must be absent.
#define THERIA_ENCODE(name)                                                       \
  if constexpr (requires { message->mutable_##name(); }) {                        \
    if (request.name.has_value()) {                                               \
      EncodeInput(request.name, regions,                                          \
                  {Request::descriptor()->FindFieldByName(#name)->number()},      \
                  message->mutable_##name(), payloads);                           \
    }                                                                             \
  } else if (request.name.has_value()) {                                          \
    return InvalidField(#name, "the operation does not read it, must be absent"); \
  }

// Decodes the field `name` if the operation's message has it.
#define THERIA_DECODE(name)                                                           \
  if constexpr (requires { message->mutable_##name(); }) {                            \
    absl::StatusOr<AnyTensor> tensor = DecodeTensor(message->mutable_##name(), room); \
    if (!tensor.ok()) return tensor.status();                                         \
    result.name = *std::move(tensor);                                                 \
  }

}  // namespace

void EncodeOptions(const AttentionOptions& options, v1::AttentionOptions* message) {
  if (options.scale.has_value()) message->set_scale(*options.scale);
  message->set_is_causal(options.is_causal);
  if (options.window.has_value()) {
    v1::Window& window = *message->mutable_window();
    if (options.window->left.has_value()) window.set_left(*options.window->left);
    if (options.window->right.has_value()) window.set_right(*options.window->right);
  }
  if (options.dropout.probability != 0.0) {
    v1::Dropout& dropout = *message->mutable_dropout();
    dropout.set_probability(options.dropout.probability);
    dropout.set_seed(options.dropout.seed);
    dropout.set_offset(options.dropout.offset);
  }
  message->set_precision(options.precision == Precision::kFast ? v1::FAST : v1::STRICT);
  message->set_implementation(ToMessage(options.implementation));
}

void EncodeOutputs(const OutputSpec& outputs, v1::OutputSpec* message) {
  message->set_o(ToMessage(outputs.o));
  message->set_lse(ToMessage(outputs.lse));
  message->set_o_dot(ToMessage(outputs.o_dot));
  message->set_lse_dot(ToMessage(outputs.lse_dot));
  message->set_q_bar(ToMessage(outputs.q_bar));
  message->set_k_bar(ToMessage(outputs.k_bar));
  message->set_v_bar(ToMessage(outputs.v_bar));
  message->set_q_bar_dot(ToMessage(outputs.q_bar_dot));
  message->set_k_bar_dot(ToMessage(outputs.k_bar_dot));
  message->set_v_bar_dot(ToMessage(outputs.v_bar_dot));
  message->set_resident_ttl_ms(ToMilliseconds(outputs.resident_ttl));
}

template <typename Request>
absl::Status EncodeRequest(const AttentionRequest& request, const SharedRegions& regions,
                           Request* message, std::vector<Payload>* payloads) {
  const absl::Status size = CheckSize(request, regions);
  if (!size.ok()) return size;
  THERIA_ENCODE(q)
  THERIA_ENCODE(k)
  THERIA_ENCODE(v)
  THERIA_ENCODE(o)
  THERIA_ENCODE(lse)
  THERIA_ENCODE(o_bar)
  THERIA_ENCODE(q_dot)
  THERIA_ENCODE(k_dot)
  THERIA_ENCODE(v_dot)
  THERIA_ENCODE(o_bar_dot)
  EncodeOptions(request.options, message->mutable_options());
  if (request.options.mask.has_value()) {
    EncodeInput(request.options.mask, regions,
                {Request::kOptionsFieldNumber, v1::AttentionOptions::kMaskFieldNumber},
                message->mutable_options()->mutable_mask(), payloads);
  }
  return absl::OkStatus();
}

template <typename Response>
absl::StatusOr<AttentionResult> DecodeResponse(Response* message,
                                               const std::shared_ptr<SharedRoom>& room) {
  AttentionResult result;
  THERIA_DECODE(o)
  THERIA_DECODE(lse)
  THERIA_DECODE(o_dot)
  THERIA_DECODE(lse_dot)
  THERIA_DECODE(q_bar)
  THERIA_DECODE(k_bar)
  THERIA_DECODE(v_bar)
  THERIA_DECODE(q_bar_dot)
  THERIA_DECODE(k_bar_dot)
  THERIA_DECODE(v_bar_dot)
  result.execution = FromMessage(message->execution());
  return result;
}

#undef THERIA_ENCODE
#undef THERIA_DECODE

template absl::Status EncodeRequest(const AttentionRequest&, const SharedRegions&,
                                    v1::ForwardRequest*, std::vector<Payload>*);
template absl::Status EncodeRequest(const AttentionRequest&, const SharedRegions&, v1::VjpRequest*,
                                    std::vector<Payload>*);
template absl::Status EncodeRequest(const AttentionRequest&, const SharedRegions&, v1::JvpRequest*,
                                    std::vector<Payload>*);
template absl::Status EncodeRequest(const AttentionRequest&, const SharedRegions&, v1::HvpRequest*,
                                    std::vector<Payload>*);
template absl::StatusOr<AttentionResult> DecodeResponse(v1::ForwardResponse*,
                                                        const std::shared_ptr<SharedRoom>&);
template absl::StatusOr<AttentionResult> DecodeResponse(v1::VjpResponse*,
                                                        const std::shared_ptr<SharedRoom>&);
template absl::StatusOr<AttentionResult> DecodeResponse(v1::JvpResponse*,
                                                        const std::shared_ptr<SharedRoom>&);
template absl::StatusOr<AttentionResult> DecodeResponse(v1::HvpResponse*,
                                                        const std::shared_ptr<SharedRoom>&);

}  // namespace theria::client
