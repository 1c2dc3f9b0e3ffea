#include "kernels/c/jax/call.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/c/jax/attributes.h"

namespace theria::jax {
namespace {

namespace ffi = xla::ffi;

constexpr std::string_view kSeed = "seed";

// A tensor of a call: the operand's or result's name, and where its description goes.
template <typename Struct>
struct Slot {
  std::string_view name;
  const theria_tensor* Struct::*pointer;
};

constexpr Slot<theria_inputs> kInputs[] = {
    {"q", &theria_inputs::q},
    {"k", &theria_inputs::k},
    {"v", &theria_inputs::v},
    {"o", &theria_inputs::o},
    {"lse", &theria_inputs::lse},
    {"o_bar", &theria_inputs::o_bar},
    {"lse_bar", &theria_inputs::lse_bar},
    {"q_dot", &theria_inputs::q_dot},
    {"k_dot", &theria_inputs::k_dot},
    {"v_dot", &theria_inputs::v_dot},
    {"bias_dot", &theria_inputs::bias_dot},
    {"o_bar_dot", &theria_inputs::o_bar_dot},
    {"lse_bar_dot", &theria_inputs::lse_bar_dot},
};

constexpr Slot<theria_options> kOptions[] = {
    {"mask", &theria_options::mask},
    {"alibi_slopes", &theria_options::alibi_slopes},
    {"kv_lengths", &theria_options::kv_lengths},
    {"cu_seqlens_q", &theria_options::cu_seqlens_q},
    {"cu_seqlens_kv", &theria_options::cu_seqlens_kv},
};

constexpr Slot<theria_outputs> kOutputs[] = {
    {"o", &theria_outputs::o},
    {"lse", &theria_outputs::lse},
    {"o_dot", &theria_outputs::o_dot},
    {"lse_dot", &theria_outputs::lse_dot},
    {"q_bar", &theria_outputs::q_bar},
    {"k_bar", &theria_outputs::k_bar},
    {"v_bar", &theria_outputs::v_bar},
    {"bias_bar", &theria_outputs::bias_bar},
    {"q_bar_dot", &theria_outputs::q_bar_dot},
    {"k_bar_dot", &theria_outputs::k_bar_dot},
    {"v_bar_dot", &theria_outputs::v_bar_dot},
    {"bias_bar_dot", &theria_outputs::bias_bar_dot},
};

// Whether a tensor comes as dot_product_attention's arrays lie, [batch, seq, heads, dim], so that
// nothing is transposed for the call. All others have the axes of the contract.
bool HeadsInside(std::string_view name) {
  const std::string_view kind = name.substr(0, name.find('_'));
  return kind == "q" || kind == "k" || kind == "v" || kind == "o";
}

ffi::Error Invalid(std::string_view name, std::string_view what) {
  return ffi::Error::InvalidArgument(std::string(name).append(what));
}

// The codes of both are those of gRPC.
ffi::Error LastError(theria_code code) {
  return ffi::Error(static_cast<ffi::ErrorCode>(code), theria_error_message());
}

std::optional<theria_dtype> DTypeOf(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F64:
      return THERIA_FLOAT64;
    case ffi::DataType::F32:
      return THERIA_FLOAT32;
    case ffi::DataType::F16:
      return THERIA_FLOAT16;
    case ffi::DataType::BF16:
      return THERIA_BFLOAT16;
    case ffi::DataType::PRED:
      return THERIA_BOOL;
    case ffi::DataType::S32:
      return THERIA_INT32;
    default:
      return std::nullopt;
  }
}

// XLA's buffers are row-major. Strides of an empty one are those of numpy, none of them 0.
ffi::Error Describe(const ffi::AnyBuffer& buffer, std::string_view name, theria_tensor* tensor) {
  const std::optional<theria_dtype> dtype = DTypeOf(buffer.element_type());
  if (!dtype) return Invalid(name, ".dtype is none that the kernels take");
  const ffi::AnyBuffer::Dimensions shape = buffer.dimensions();
  if (shape.size() > 4) return Invalid(name, ".shape has more than 4 dimensions");
  *tensor = {.struct_size = sizeof(theria_tensor),
             .dtype = *dtype,
             .rank = static_cast<int32_t>(shape.size()),
             .data = buffer.untyped_data()};
  int64_t stride = 1;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    tensor->shape[axis] = shape[axis];
    tensor->strides[axis] = stride;
    stride *= std::max<int64_t>(shape[axis], 1);
  }
  if (shape.size() == 4 && HeadsInside(name)) {
    std::swap(tensor->shape[1], tensor->shape[2]);
    std::swap(tensor->strides[1], tensor->strides[2]);
  }
  return ffi::Error::Success();
}

// The context of a device lives as long as the process, as the device does.
theria_code ContextOf(const Place& place, int32_t threads, theria_context** context) {
  static std::mutex mutex;
  static auto& contexts = *new std::map<std::tuple<int, int32_t, int32_t>, theria_context*>;
  const std::lock_guard lock(mutex);
  theria_context*& found = contexts[{place.device_type, place.ordinal, threads}];
  if (found == nullptr) {
    const theria_context_options options = {.struct_size = sizeof(theria_context_options),
                                            .device_type = place.device_type,
                                            .device_ordinal = place.ordinal,
                                            .threads = threads};
    const theria_code code = theria_context_create(&options, &found);
    if (code != THERIA_OK) return code;
  }
  *context = found;
  return THERIA_OK;
}

// The structs of one call, which point to each other.
class Call {
 public:
  ffi::Error AddOperand(const ffi::AnyBuffer& buffer, std::string_view name) {
    if (name == kSeed) {
      if (buffer.element_type() != ffi::DataType::U32 || buffer.element_count() != 2) {
        return Invalid(name, " must be uint32 [2]");
      }
      seed_ = buffer.untyped_data();
      return ffi::Error::Success();
    }
    for (const auto& slot : kOptions) {
      if (slot.name == name) return Add(buffer, name, &(options_.*slot.pointer));
    }
    return AddTo(kInputs, buffer, name, &inputs_);
  }

  ffi::Error AddResult(const ffi::AnyBuffer& buffer, std::string_view name) {
    return AddTo(kOutputs, buffer, name, &outputs_);
  }

  ffi::Error Run(theria_operation operation, const Place& place, const Attributes& attributes) {
    theria_context* context = nullptr;
    theria_code code = ContextOf(place, attributes.threads, &context);
    if (code != THERIA_OK) return LastError(code);
    theria_options options = attributes.options;
    for (const auto& slot : kOptions) options.*slot.pointer = options_.*slot.pointer;
    if (seed_ != nullptr) code = ReadSeed(context, place.launch.stream, &options.dropout_seed);
    if (code != THERIA_OK) return LastError(code);
    code = theria_run(context, operation, &inputs_, &options, &outputs_, &place.launch, nullptr);
    return code == THERIA_OK ? ffi::Error::Success() : LastError(code);
  }

 private:
  ffi::Error Add(const ffi::AnyBuffer& buffer, std::string_view name,
                 const theria_tensor** pointer) {
    *pointer = &tensors_.emplace_back();
    return Describe(buffer, name, &tensors_.back());
  }

  template <typename Slots, typename Struct>
  ffi::Error AddTo(const Slots& slots, const ffi::AnyBuffer& buffer, std::string_view name,
                   Struct* to) {
    for (const auto& slot : slots) {
      if (slot.name == name) return Add(buffer, name, &(to->*slot.pointer));
    }
    return Invalid(name, " is no tensor of the operation");
  }

  // The library takes the seed from the host. On a GPU that waits for the stream.
  theria_code ReadSeed(theria_context* context, void* stream, uint64_t* seed) const {
    uint32_t halves[2];
    theria_code code = theria_synchronize(context, stream);
    if (code == THERIA_OK) code = theria_memory_read(context, halves, seed_, sizeof(halves));
    if (code == THERIA_OK) *seed = uint64_t{halves[0]} << 32 | halves[1];
    return code;
  }

  std::deque<theria_tensor> tensors_;  // addresses of its elements stay
  theria_inputs inputs_ = {.struct_size = sizeof(theria_inputs)};
  theria_outputs outputs_ = {.struct_size = sizeof(theria_outputs)};
  theria_options options_ = {};  // its tensors
  const void* seed_ = nullptr;
};

template <typename Buffers, typename Adder>
ffi::Error AddAll(const Buffers& buffers, const std::vector<std::string_view>& names,
                  std::string_view attribute, const Adder& add) {
  if (buffers.size() != names.size()) {
    return Invalid(attribute, " must name each buffer of the custom call");
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    auto buffer = buffers.template get<ffi::AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    if (ffi::Error error = add(*buffer, names[i]); error.failure()) return error;
  }
  return ffi::Error::Success();
}

}  // namespace

ffi::Error Run(theria_operation operation, const Place& place, const ffi::RemainingArgs& operands,
               const ffi::RemainingRets& results, const ffi::Dictionary& attributes) {
  const ffi::ErrorOr<Attributes> read = ReadAttributes(attributes);
  if (read.has_error()) return read.error();
  Call call;
  ffi::Error error = AddAll(operands, read->inputs, "inputs", [&](const auto& buffer, auto name) {
    return call.AddOperand(buffer, name);
  });
  if (error.failure()) return error;
  error = AddAll(results, read->outputs, "outputs",
                 [&](auto buffer, auto name) { return call.AddResult(*buffer, name); });
  return error.failure() ? error : call.Run(operation, place, *read);
}

}  // namespace theria::jax
