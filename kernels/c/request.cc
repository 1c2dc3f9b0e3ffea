#include "kernels/c/request.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/api/message.h"
#include "kernels/c/versioned.h"

#define THERIA_RETURN_IF_ERROR(expression) \
  do {                                     \
    absl::Status status_ = (expression);   \
    if (!status_.ok()) return status_;     \
  } while (false)

namespace theria::c {
namespace {

constexpr std::string_view kMask = "options.mask";

struct InputPointer {
  const theria_tensor* theria_inputs::*pointer;
  std::optional<TensorView> AttentionInputs::*view;
  std::string_view name;
};
constexpr InputPointer kInputs[] = {
    {&theria_inputs::q, &AttentionInputs::q, "q"},
    {&theria_inputs::k, &AttentionInputs::k, "k"},
    {&theria_inputs::v, &AttentionInputs::v, "v"},
    {&theria_inputs::o, &AttentionInputs::o, "o"},
    {&theria_inputs::lse, &AttentionInputs::lse, "lse"},
    {&theria_inputs::o_bar, &AttentionInputs::o_bar, "o_bar"},
    {&theria_inputs::q_dot, &AttentionInputs::q_dot, "q_dot"},
    {&theria_inputs::k_dot, &AttentionInputs::k_dot, "k_dot"},
    {&theria_inputs::v_dot, &AttentionInputs::v_dot, "v_dot"},
    {&theria_inputs::o_bar_dot, &AttentionInputs::o_bar_dot, "o_bar_dot"},
};

struct OutputPointer {
  const theria_tensor* theria_outputs::*pointer;
  std::optional<MutableTensorView> AttentionOutputs::*view;
  std::string_view name;
};
constexpr OutputPointer kOutputs[] = {
    {&theria_outputs::o, &AttentionOutputs::o, "o"},
    {&theria_outputs::lse, &AttentionOutputs::lse, "lse"},
    {&theria_outputs::o_dot, &AttentionOutputs::o_dot, "o_dot"},
    {&theria_outputs::lse_dot, &AttentionOutputs::lse_dot, "lse_dot"},
    {&theria_outputs::q_bar, &AttentionOutputs::q_bar, "q_bar"},
    {&theria_outputs::k_bar, &AttentionOutputs::k_bar, "k_bar"},
    {&theria_outputs::v_bar, &AttentionOutputs::v_bar, "v_bar"},
    {&theria_outputs::q_bar_dot, &AttentionOutputs::q_bar_dot, "q_bar_dot"},
    {&theria_outputs::k_bar_dot, &AttentionOutputs::k_bar_dot, "k_bar_dot"},
    {&theria_outputs::v_bar_dot, &AttentionOutputs::v_bar_dot, "v_bar_dot"},
};

// Fields of outputs are "outputs.o": an input may have the same name.
std::string OutputField(std::string_view name) { return std::string("outputs.").append(name); }

template <typename Void>
absl::Status ReadTensor(const theria_tensor* given, std::string_view name,
                        std::optional<BasicTensorView<Void>>* view) {
  if (given == nullptr) return absl::OkStatus();
  const absl::StatusOr<theria_tensor> tensor = Read(given, name);
  if (!tensor.ok()) return tensor.status();
  if (tensor->rank < 0 || tensor->rank > kMaxRank) {
    return InvalidField(Message(name, ".shape"),
                        Message("has ", tensor->rank, " dimensions, must have at most 4"));
  }
  if (tensor->dtype < THERIA_FLOAT64 || tensor->dtype > THERIA_BOOL) {
    return InvalidField(Message(name, ".dtype"),
                        Message("is ", tensor->dtype, ", which is no dtype"));
  }
  BasicTensorView<Void>& read = view->emplace();
  read.data = tensor->data;
  read.dtype = static_cast<DType>(tensor->dtype);
  read.rank = tensor->rank;
  for (int axis = 0; axis < read.rank; ++axis) {
    read.shape[axis] = tensor->shape[axis];
    read.strides[axis] = tensor->strides[axis];
  }
  return absl::OkStatus();
}

absl::Status ReadOptions(const theria_options* given, AttentionOptions* read) {
  if (given == nullptr) return absl::OkStatus();
  const absl::StatusOr<theria_options> options = Read(given, "options");
  if (!options.ok()) return options.status();
  if (options->precision < THERIA_STRICT || options->precision > THERIA_FAST) {
    return InvalidField("options.precision",
                        Message("is ", options->precision, ", which is no precision"));
  }
  if (options->implementation < THERIA_AUTO || options->implementation > THERIA_REFERENCE) {
    return InvalidField("options.implementation",
                        Message("is ", options->implementation, ", which is no implementation"));
  }
  if (options->has_scale != 0) read->scale = options->scale;
  read->is_causal = options->is_causal != 0;
  if (options->has_window_left != 0 || options->has_window_right != 0) {
    Window& window = read->window.emplace();
    if (options->has_window_left != 0) window.left = options->window_left;
    if (options->has_window_right != 0) window.right = options->window_right;
  }
  read->dropout = {options->dropout_probability, options->dropout_seed, options->dropout_offset};
  read->precision = static_cast<Precision>(options->precision);
  read->implementation = static_cast<Implementation>(options->implementation);
  return ReadTensor(options->mask, kMask, &read->mask);
}

absl::Status CheckData(const void* data, std::string_view name) {
  if (data != nullptr) return absl::OkStatus();
  return InvalidField(Message(name, ".data"), "is NULL");
}

absl::Status CheckOutput(const MutableTensorView& view, const MutableTensorView& expected,
                         const std::string& name) {
  if (view.dtype != expected.dtype) {
    return InvalidField(Message(name, ".dtype"), Message("is ", DTypeName(view.dtype), ", must be ",
                                                         DTypeName(expected.dtype)));
  }
  if (view.rank != expected.rank) {
    return InvalidField(Message(name, ".shape"),
                        Message("has ", view.rank, " dimensions, must have ", expected.rank));
  }
  for (int axis = 0; axis < view.rank; ++axis) {
    if (view.shape[axis] != expected.shape[axis]) {
      return InvalidField(Message(name, ".shape[", axis, "]"),
                          Message("is ", view.shape[axis], ", must be ", expected.shape[axis]));
    }
    if (view.strides[axis] < 1 && view.shape[axis] > 1) {
      return InvalidField(Message(name, ".strides[", axis, "]"),
                          Message("is ", view.strides[axis], ", must be at least 1"));
    }
  }
  return CheckData(view.data, name);
}

}  // namespace

absl::StatusOr<Request> ReadInputs(theria_operation operation, const theria_inputs* inputs,
                                   const theria_options* options) {
  const absl::StatusOr<theria_inputs> given = Read(inputs, "inputs");
  if (!given.ok()) return given.status();
  if (operation < THERIA_FORWARD || operation > THERIA_HVP) {
    return InvalidField("operation", Message("is ", static_cast<int>(operation),
                                             ", must be forward, vjp, jvp or hvp"));
  }
  absl::StatusOr<Request> request = Request{};
  for (const InputPointer& input : kInputs) {
    THERIA_RETURN_IF_ERROR(
        ReadTensor((*given).*input.pointer, input.name, &(request->inputs.*input.view)));
  }
  THERIA_RETURN_IF_ERROR(ReadOptions(options, &request->inputs.options));
  absl::StatusOr<AttentionProblem> problem =
      Validate(static_cast<Operation>(operation), request->inputs);
  if (!problem.ok()) return problem.status();
  request->problem = *problem;
  return request;
}

absl::StatusOr<Request> ReadCall(theria_operation operation, const theria_inputs* inputs,
                                 const theria_options* options, const theria_outputs* outputs) {
  absl::StatusOr<Request> request = ReadInputs(operation, inputs, options);
  if (!request.ok()) return request;
  for (const InputPointer& input : kInputs) {
    const std::optional<TensorView>& view = request->inputs.*input.view;
    if (view.has_value()) THERIA_RETURN_IF_ERROR(CheckData(view->data, input.name));
  }
  if (const std::optional<TensorView>& mask = request->inputs.options.mask; mask.has_value()) {
    THERIA_RETURN_IF_ERROR(CheckData(mask->data, kMask));
  }
  const absl::StatusOr<theria_outputs> given = Read(outputs, "outputs");
  if (!given.ok()) return given.status();
  for (const OutputPointer& output : kOutputs) {
    if ((*given).*output.pointer == nullptr) continue;
    const std::string name = OutputField(output.name);
    if (!HasOutput(request->problem.operation, output.name)) {
      return InvalidField(name, Message("is given, must be absent: it is no output of ",
                                        OperationName(request->problem.operation)));
    }
    std::optional<MutableTensorView>& view = request->outputs.*output.view;
    THERIA_RETURN_IF_ERROR(ReadTensor((*given).*output.pointer, name, &view));
    THERIA_RETURN_IF_ERROR(CheckOutput(*view, OutputLayout(request->problem, output.name), name));
  }
  return request;
}

#undef THERIA_RETURN_IF_ERROR

}  // namespace theria::c
