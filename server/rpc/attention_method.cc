#include "server/rpc/attention_method.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/api/message.h"
#include "server/rpc/lengths.h"
#include "server/rpc/options_codec.h"

namespace theria::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

const FieldDescriptor* Find(const Descriptor& message, std::string_view name) {
  return message.FindFieldByName(std::string(name));
}

// As the comments of OutputSpec say.
v1::OutputMode DefaultMode(Operation operation, std::string_view output) {
  if (!HasOutput(operation, output) || IsOfBias(output)) return v1::SKIP;
  switch (operation) {
    case Operation::kForward:
      return v1::INLINE;
    case Operation::kJvp:
      return output == "o" || output == "o_dot" ? v1::INLINE : v1::SKIP;
    case Operation::kVjp:
    case Operation::kHvp:
      return output.find("_bar") != std::string_view::npos ? v1::INLINE : v1::SKIP;
  }
  return v1::SKIP;
}

// What an input makes the server hold: its elements, repeated ones counted each time, or what lies
// between them, where strides leave gaps.
std::size_t HeldBytes(const TensorView& view) {
  const auto span = static_cast<std::size_t>(view.SpanElements()) * ItemSizeBytes(view.dtype);
  return std::max(view.SizeBytes(), span);
}

std::size_t TotalInputBytes(const AttentionInputs& inputs) {
  std::size_t bytes = 0;
  ForEachInput(inputs, [&bytes](std::string_view, const std::optional<TensorView>& view) {
    if (view.has_value()) bytes += HeldBytes(*view);
  });
  return bytes;
}

// Checks the values of the lengths among the options that lie in host memory.
absl::Status CheckAllLengths(const AttentionTask& task, const Memory& memory) {
  for (const OptionTensor& option : kOptionTensors) {
    const std::optional<TensorView>& view = task.inputs.options.*option.member;
    if (!view.has_value() || !HasLengths(option.name)) continue;
    if (task.decoder.IsOnDevice(*view) && !memory.host_accessible()) continue;
    std::string gathered;
    TensorView readable = *view;
    for (const AttentionTask::ScatteredInput& input : task.scattered) {
      if (input.view != &*view) continue;
      for (const absl::Span<const char> piece : input.payload->pieces) {
        gathered.append(piece.data(), piece.size());
      }
      readable.data = gathered.data();
    }
    absl::Status valid = CheckLengths(option.name, ReadLengths(readable), task.problem);
    if (!valid.ok()) return valid;
  }
  return absl::OkStatus();
}

constexpr std::size_t kInputAlignmentBytes = 64;  // as that of any Buffer

std::size_t RoundUp(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

absl::Status AttentionTask::GatherInputs() {
  std::size_t size_bytes = 0;
  for (const ScatteredInput& input : scattered) {
    size_bytes += RoundUp(input.payload->size_bytes, kInputAlignmentBytes);
  }
  if (size_bytes == 0) return absl::OkStatus();
  absl::StatusOr<Buffer> buffer = HostMemory().Allocate(size_bytes);
  if (!buffer.ok()) return buffer.status();
  gathered = *std::move(buffer);
  char* next = static_cast<char*>(gathered.data());
  for (const ScatteredInput& input : scattered) {
    input.view->data = next;
    char* end = next;
    for (const absl::Span<const char> piece : input.payload->pieces) {
      end = std::copy(piece.begin(), piece.end(), end);
    }
    next += RoundUp(input.payload->size_bytes, kInputAlignmentBytes);
  }
  return absl::OkStatus();
}

void AttentionTask::StageInputs(DeviceStaging& staging) {
  for (const ScatteredInput& input : scattered) {
    staging.AddInput(*input.view, input.payload->pieces);
  }
  ForEachInput(inputs, [&](std::string_view, std::optional<TensorView>& view) {
    if (!view.has_value() || view->data == nullptr || decoder.IsOnDevice(*view)) return;
    staging.AddInput(*view);
  });
}

AttentionMethod::AttentionMethod(Operation operation, const Descriptor& request,
                                 const Descriptor& response)
    : operation_(operation),
      options_(Find(request, "options")),
      output_spec_(Find(request, "outputs")),
      execution_(Find(response, "execution")) {
  for (const InputField& field : kInputFields) {
    if (const FieldDescriptor* wire = Find(request, field.name); wire != nullptr) {
      inputs_.push_back({wire, field});
    }
  }
  for (const OutputField& field : kOutputFields) {
    outputs_.push_back({Find(response, field.name), Find(*v1::OutputSpec::descriptor(), field.name),
                        field, DefaultMode(operation, field.name)});
  }
}

absl::StatusOr<std::unique_ptr<AttentionTask>> AttentionMethod::Decode(
    const google::protobuf::Message& request, TensorStore& store, const TenantId& tenant,
    const AttentionLimits& limits, SharedRegions* regions, const InlinePayloads* payloads) const {
  auto task = std::make_unique<AttentionTask>(
      TensorDecoder(store, tenant, limits.max_tensor_bytes, regions, payloads));
  if (absl::Status inputs = DecodeInputs(request, *task); !inputs.ok()) return inputs;
  absl::StatusOr<AttentionProblem> problem = Validate(operation_, task->inputs);
  if (!problem.ok()) return problem.status();
  task->problem = *problem;
  if (absl::Status lengths = CheckAllLengths(*task, store.memory()); !lengths.ok()) return lengths;
  const auto& spec = static_cast<const v1::OutputSpec&>(
      request.GetReflection()->GetMessage(request, output_spec_));
  if (absl::Status outputs = PlanOutputs(spec, store, limits, *task); !outputs.ok()) {
    return outputs;
  }
  task->demand.bytes += TotalInputBytes(task->inputs);
  task->demand.flops = AttentionFlops(task->problem, task->inputs.options);
  if (task->demand.bytes > limits.max_request_bytes) {
    return InvalidField("q.shape", Message("makes a request of ", task->demand.bytes,
                                           " bytes of inputs and outputs, must be at most ",
                                           limits.max_request_bytes));
  }
  return task;
}

absl::Status AttentionMethod::DecodeInputs(const google::protobuf::Message& request,
                                           AttentionTask& task) const {
  const google::protobuf::Reflection& reflection = *request.GetReflection();
  const auto note_scattered = [&task](std::optional<TensorView>& view, const v1::Tensor& tensor) {
    const InlinePayload* const payload = task.decoder.Scattered(tensor);
    if (view.has_value() && payload != nullptr) task.scattered.push_back({&*view, payload});
  };
  for (const Input& input : inputs_) {
    if (!reflection.HasField(request, input.wire)) continue;
    const auto& tensor = static_cast<const v1::Tensor&>(reflection.GetMessage(request, input.wire));
    absl::StatusOr<std::optional<TensorView>> view = task.decoder.Decode(tensor, input.field.name);
    if (!view.ok()) return view.status();
    task.inputs.*input.field.member = *view;
    note_scattered(task.inputs.*input.field.member, tensor);
  }
  const auto& wire_options =
      static_cast<const v1::AttentionOptions&>(reflection.GetMessage(request, options_));
  absl::StatusOr<AttentionOptions> options = DecodeOptions(wire_options, task.decoder);
  if (!options.ok()) return options.status();
  task.inputs.options = *std::move(options);
  for (const OptionTensor& tensor : kOptionTensors) {
    if (const v1::Tensor* const wire = WireTensor(wire_options, tensor); wire != nullptr) {
      note_scattered(task.inputs.options.*tensor.member, *wire);
    }
  }
  return task.decoder.status();
}

absl::Status AttentionMethod::PlanOutputs(const v1::OutputSpec& spec, const TensorStore& store,
                                          const AttentionLimits& limits,
                                          AttentionTask& task) const {
  std::size_t inline_bytes = 0;
  std::size_t shared_bytes = 0;
  for (const Output& output : outputs_) {
    int mode = spec.GetReflection()->GetEnumValue(spec, output.mode);
    if (mode == v1::OUTPUT_MODE_UNSPECIFIED) mode = output.default_mode;
    if (mode == v1::SKIP) continue;
    const auto path = [&output] { return Message("outputs.", output.field.name); };
    if (mode != v1::INLINE && mode != v1::RESIDENT && mode != v1::SHARED) {
      return InvalidField(path(), Message("is ", mode, ", which is no output mode"));
    }
    if (output.wire == nullptr || !HasOutput(operation_, output.field.name)) {
      return InvalidField(
          path(), Message("must be SKIP: ", OperationName(operation_), " has no such output"));
    }
    if (!HasOutput(task.problem, output.field.name)) {
      return InvalidField(path(),
                          "must be SKIP: only a floating-point options.mask has a derivative");
    }
    MutableTensorView layout = OutputLayout(task.problem, output.field.name);
    task.demand.bytes += layout.SizeBytes();
    if (mode == v1::RESIDENT && layout.SizeBytes() > limits.max_tensor_bytes) {
      return InvalidField(path(),
                          Message("takes ", layout.SizeBytes(), " bytes, must take at most ",
                                  limits.max_tensor_bytes, " to be RESIDENT"));
    }
    if (mode == v1::RESIDENT && layout.SizeBytes() == 0) {
      return InvalidField(path(),
                          "is empty, must be INLINE: the tensor store holds no empty tensor");
    }
    if (mode == v1::INLINE) inline_bytes += layout.SizeBytes();
    const std::size_t offset_bytes = shared_bytes;
    if (mode == v1::SHARED) {
      if (absl::Status placed = PlaceShared(spec, shared_bytes, layout, task); !placed.ok()) {
        return placed;
      }
    }
    task.outputs.push_back({output.wire, output.field, layout, static_cast<v1::OutputMode>(mode),
                            task.target.offset_bytes + offset_bytes});
  }
  if (inline_bytes > limits.max_inline_bytes) {
    return InvalidField("outputs",
                        Message("take ", inline_bytes, " bytes inline, must take ", "at most ",
                                limits.max_inline_bytes, "; ask for RESIDENT"));
  }
  const std::int64_t max_ttl_ms = absl::ToInt64Milliseconds(store.options().max_ttl);
  if (spec.resident_ttl_ms() < 0 || spec.resident_ttl_ms() > max_ttl_ms) {
    return InvalidField("outputs.resident_ttl_ms",
                        Message("is ", spec.resident_ttl_ms(), ", must be 0 to ", max_ttl_ms));
  }
  task.resident_ttl = absl::Milliseconds(spec.resident_ttl_ms());
  return absl::OkStatus();
}

absl::Status AttentionMethod::PlaceShared(const v1::OutputSpec& spec, std::size_t& used_bytes,
                                          MutableTensorView& layout, AttentionTask& task) {
  constexpr std::string_view kField = "outputs.shared_memory";
  if (task.target.region == nullptr) {
    absl::StatusOr<SharedPart> target = task.decoder.DecodeTarget(spec.shared_memory(), kField);
    if (!target.ok()) return target.status();
    task.target = *std::move(target);
  }
  const std::size_t size_bytes = layout.SizeBytes();
  if (used_bytes > task.target.size_bytes || size_bytes > task.target.size_bytes - used_bytes) {
    return InvalidField(Message(kField, ".size_bytes"),
                        Message("is ", task.target.size_bytes, ", must be at least ",
                                used_bytes + size_bytes, " for the SHARED outputs"));
  }
  layout.data = task.target.data() + used_bytes;
  used_bytes += RoundUp(size_bytes, kRegionAlignmentBytes);
  return absl::OkStatus();
}

v1::ExecutionInfo& AttentionMethod::MutableExecution(google::protobuf::Message& response) const {
  return static_cast<v1::ExecutionInfo&>(
      *response.GetReflection()->MutableMessage(&response, execution_));
}

}  // namespace theria::server
