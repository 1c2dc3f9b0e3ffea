#ifndef THERIA_KERNELS_CONTEXT_H_
#define THERIA_KERNELS_CONTEXT_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "theria/kernels.h"

// A thin C++ wrapper of theria/kernels.h, which is the manual. It depends on nothing else.
//
//   theria::kernels::Context context;
//   theria::kernels::Status status = theria::kernels::Context::Create({}, &context);
//   const theria_tensor q = theria::kernels::RowMajor(data, THERIA_FLOAT32, {2, 4, 128, 64});
//   auto inputs = theria::kernels::Sized<theria_inputs>();
//   inputs.q = &q; ...
//   status = context.Run(THERIA_FORWARD, inputs, options, outputs);

namespace theria::kernels {

// The outcome of a call. `field` names the field of an INVALID_ARGUMENT.
struct Status {
  theria_code code = THERIA_OK;
  std::string message;
  std::string field;

  bool ok() const { return code == THERIA_OK; }

  // Of the call that this thread has just made.
  static Status OfLastCall(theria_code code) {
    if (code == THERIA_OK) return {};
    return {code, theria_error_message(), theria_error_field()};
  }
};

// A struct of the C interface, all zero but for its size.
template <typename Struct>
Struct Sized() {
  Struct value = {};
  value.struct_size = sizeof(Struct);
  return value;
}

// REQUIRES: shape.size() <= 4.
inline theria_tensor RowMajor(void* data, theria_dtype dtype,
                              std::initializer_list<std::int64_t> shape) {
  theria_tensor tensor = Sized<theria_tensor>();
  tensor.data = data;
  tensor.dtype = dtype;
  for (const std::int64_t extent : shape) tensor.shape[tensor.rank++] = extent;
  std::int64_t stride = 1;
  for (int axis = tensor.rank - 1; axis >= 0; --axis) {
    tensor.strides[axis] = stride;
    stride *= tensor.shape[axis];
  }
  return tensor;
}

struct Device {
  theria_device_type type = THERIA_CPU;
  std::int32_t ordinal = 0;
  std::int32_t threads = 0;
};

// Owns a theria_context. Movable; empty until Create has filled it. Thread-safe as the context is.
class Context {
 public:
  Context() = default;
  Context(Context&& other) noexcept : context_(std::exchange(other.context_, nullptr)) {}
  Context& operator=(Context&& other) noexcept {
    std::swap(context_, other.context_);
    return *this;
  }
  ~Context() { theria_context_destroy(context_); }

  static Status Create(const Device& device, Context* context) {
    auto options = Sized<theria_context_options>();
    options.device_type = device.type;
    options.device_ordinal = device.ordinal;
    options.threads = device.threads;
    theria_context* made = nullptr;
    const Status status = Status::OfLastCall(theria_context_create(&options, &made));
    if (status.ok()) *context = Context(made);
    return status;
  }

  Status Run(theria_operation operation, const theria_inputs& inputs, const theria_options& options,
             const theria_outputs& outputs, const theria_launch& launch = Sized<theria_launch>(),
             theria_report* report = nullptr) const {
    return Status::OfLastCall(
        theria_run(context_, operation, &inputs, &options, &outputs, &launch, report));
  }

  Status Synchronize(void* stream) const {
    return Status::OfLastCall(theria_synchronize(context_, stream));
  }

  theria_context* get() const { return context_; }

 private:
  explicit Context(theria_context* context) : context_(context) {}

  theria_context* context_ = nullptr;
};

}  // namespace theria::kernels

#endif  // THERIA_KERNELS_CONTEXT_H_
