#include "client/cpp/src/output_room.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "client/cpp/src/message_codec.h"
#include "client/cpp/src/text.h"

namespace theria::client {
namespace {

constexpr std::size_t kRank = 4;

bool IsInline(Operation operation, std::string_view name, OutputMode mode) {
  if (mode != OutputMode::kDefault) return mode == OutputMode::kInline;
  const bool is_forward = operation == Operation::kForward;
  const bool is_jvp = operation == Operation::kJvp;
  if (name == "o") return is_forward || is_jvp;
  if (name == "lse") return is_forward;
  if (name == "o_dot") return is_jvp;
  if (name == "lse_dot" || name == "bias_bar" || name == "bias_bar_dot") return false;
  if (operation == Operation::kHvp) return true;
  return operation == Operation::kVjp && (name == "q_bar" || name == "k_bar" || name == "v_bar");
}

const Shape& ShapeOf(const AnyTensor& tensor) {
  return tensor.is_local() ? tensor.local().shape() : tensor.resident().shape();
}

DType DTypeOfAny(const AnyTensor& tensor) {
  return tensor.is_local() ? tensor.local().dtype() : tensor.resident().dtype();
}

// None for what cannot be.
std::optional<std::size_t> OutputBytes(const AttentionRequest& request, std::string_view name) {
  const DType dtype = DTypeOfAny(request.q);
  Shape shape = ShapeOf(request.q);
  switch (name.front()) {
    case 'o':
      shape[3] = ShapeOf(request.v)[3];
      return CheckedSizeBytes(dtype, shape);
    case 'l':
      shape.pop_back();
      return CheckedSizeBytes(dtype == DType::kFloat64 ? dtype : DType::kFloat32, shape);
    case 'q':
      return CheckedSizeBytes(dtype, shape);
    case 'b':
      return CheckedSizeBytes(DTypeOfAny(request.options.mask), ShapeOf(request.options.mask));
    case 'k':
      return CheckedSizeBytes(dtype, ShapeOf(request.k));
    default:
      return CheckedSizeBytes(dtype, ShapeOf(request.v));
  }
}

void SetShared(const std::string& name, v1::OutputSpec* message) {
  const google::protobuf::FieldDescriptor* field =
      v1::OutputSpec::descriptor()->FindFieldByName(name);
  v1::OutputSpec::GetReflection()->SetEnumValue(message, field, v1::SHARED);
}

}  // namespace

absl::StatusOr<std::shared_ptr<SharedRoom>> TakeOutputRoom(Operation operation,
                                                           const AttentionRequest& request,
                                                           const SharedRegions& regions,
                                                           v1::OutputSpec* message) {
  const std::optional<SharedRegion>& region = request.outputs.region;
  if (!region.has_value() || !regions.Has(*region)) return nullptr;
  // What is wrong with inputs the server says.
  for (const AnyTensor* tensor : {&request.q, &request.k, &request.v}) {
    if (!tensor->has_value() || ShapeOf(*tensor).size() != kRank) return nullptr;
  }
  std::size_t total_bytes = 0;
  for (const OutputField& output : kOutputFields) {
    if (!IsInline(operation, output.name, request.outputs.*output.mode)) continue;
    if (output.name.starts_with("bias") && !request.options.mask.has_value()) continue;
    const std::optional<std::size_t> size_bytes = OutputBytes(request, output.name);
    if (size_bytes == 0) continue;  // needs no room
    if (!size_bytes.has_value() ||
        *size_bytes > region->size_bytes() - std::min(total_bytes, region->size_bytes())) {
      return absl::ResourceExhaustedError(
          Text("outputs.region has ", region->size_bytes(), " bytes, the outputs need more"));
    }
    total_bytes += AlignedBytes(*size_bytes);
    SetShared(std::string(output.name), message);
  }
  if (total_bytes == 0) return nullptr;
  absl::StatusOr<std::shared_ptr<SharedRoom>> room = region->state()->Take(total_bytes);
  if (!room.ok()) {
    return absl::ResourceExhaustedError(Text("outputs.region: ", room.status().message()));
  }
  *message->mutable_shared_memory() = (*room)->reference();
  return room;
}

}  // namespace theria::client
