#include "kernels/c/request.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/api/message.h"
#include "kernels/c/tensor_fields.h"
#include "kernels/c/versioned.h"

#define THERIA_RETURN_IF_ERROR(expression) \
  do {                                     \
    absl::Status status_ = (expression);   \
    if (!status_.ok()) return status_;     \
  } while (false)

namespace theria::c {
namespace {

// Whether the C interface's table and that of kernels/api/attention.h have the same rows.
template <typename Fields, typename Members>
constexpr bool AreAlike(const Fields& fields, const Members& members) {
  return std::equal(std::begin(fields), std::end(fields), std::begin(members), std::end(members),
                    [](const auto& a, const auto& b) { return a.name == b.name; });
}
static_assert(AreAlike(kInputFields, kInputTensors));
static_assert(AreAlike(kOutputFields, kOutputTensors));
static_assert(AreAlike(theria::kOptionTensors, c::kOptionTensors));

// Fields of outputs are "outputs.o": an input may have the same name.
std::string OutputPath(std::string_view name) { return std::string("outputs.").append(name); }

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
  if (tensor->dtype < THERIA_FLOAT64 || tensor->dtype > THERIA_INT32) {
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
  if (options->causal_alignment < THERIA_UPPER_LEFT ||
      options->causal_alignment > THERIA_LOWER_RIGHT) {
    return InvalidField("options.causal_alignment",
                        Message("is ", options->causal_alignment, ", which is no alignment"));
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
  read->causal_alignment = static_cast<CausalAlignment>(options->causal_alignment);
  read->deterministic = options->deterministic != 0;
  if (options->softcap != 0.0) read->softcap = options->softcap;
  for (std::size_t i = 0; i < std::size(kOptionTensors); ++i) {
    const OptionTensor& tensor = theria::kOptionTensors[i];
    THERIA_RETURN_IF_ERROR(
        ReadTensor((*options).*kOptionTensors[i].member, tensor.path, &(read->*tensor.member)));
  }
  return absl::OkStatus();
}

template <typename Void>
absl::Status CheckData(const BasicTensorView<Void>& view, std::string_view name) {
  if (view.data != nullptr || view.NumElements() == 0) return absl::OkStatus();
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
  return CheckData(view, name);
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
  for (std::size_t i = 0; i < std::size(kInputTensors); ++i) {
    const InputField& field = kInputFields[i];
    THERIA_RETURN_IF_ERROR(ReadTensor((*given).*kInputTensors[i].member, field.name,
                                      &(request->inputs.*field.member)));
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
  absl::Status data;
  ForEachInput(request->inputs, [&](std::string_view name, const std::optional<TensorView>& view) {
    if (data.ok() && view.has_value()) data = CheckData(*view, name);
  });
  if (!data.ok()) return data;
  const absl::StatusOr<theria_outputs> given = Read(outputs, "outputs");
  if (!given.ok()) return given.status();
  for (std::size_t i = 0; i < std::size(kOutputTensors); ++i) {
    const OutputField& field = kOutputFields[i];
    if ((*given).*kOutputTensors[i].member == nullptr) continue;
    const std::string name = OutputPath(field.name);
    THERIA_RETURN_IF_ERROR(CheckHasOutput(request->problem, field.name, name));
    std::optional<MutableTensorView>& view = request->outputs.*field.member;
    THERIA_RETURN_IF_ERROR(ReadTensor((*given).*kOutputTensors[i].member, name, &view));
    THERIA_RETURN_IF_ERROR(CheckOutput(*view, OutputLayout(request->problem, field.name), name));
  }
  return request;
}

#undef THERIA_RETURN_IF_ERROR

}  // namespace theria::c
