#include "kernels/c/include/theria/kernels.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/api/attention.h"
#include "kernels/api/message.h"
#include "kernels/c/context.h"
#include "kernels/c/last_error.h"
#include "kernels/c/request.h"
#include "kernels/c/versioned.h"
#include "kernels/cuda/backend.h"

// The functions of theria/kernels.h: each reads its structs, calls the context, and records errors.

namespace {

using theria::InvalidField;
using theria::c::Guarded;
using theria::c::Request;

// Guarded, for a function that needs a context.
template <typename Body>
theria_code OnContext(const theria_context* context, Body&& body) {
  return Guarded([&]() -> absl::Status {
    if (context == nullptr) return InvalidField("context", "is NULL");
    return body();
  });
}

}  // namespace

const char* theria_error_message(void) { return theria::c::LastMessage(); }
const char* theria_error_field(void) { return theria::c::LastField(); }
int32_t theria_abi(void) { return THERIA_KERNELS_ABI; }
const char* theria_version(void) { return THERIA_VERSION; }
int32_t theria_cuda_device_count(void) { return theria::CudaDeviceCount(); }

const char* theria_cuda_kernel_names(void) {
  static const std::string& names = *new std::string(theria::CudaKernelNames());
  return names.c_str();
}

theria_code theria_context_create(const theria_context_options* options, theria_context** context) {
  return Guarded([&]() -> absl::Status {
    if (context == nullptr) return InvalidField("context", "is NULL");
    absl::StatusOr<theria_context_options> read = theria_context_options{};
    if (options != nullptr) read = theria::c::Read(options, "options");
    if (!read.ok()) return read.status();
    absl::StatusOr<std::unique_ptr<theria_context>> made = theria_context::Create(*read);
    if (!made.ok()) return made.status();
    *context = made->release();
    return absl::OkStatus();
  });
}

void theria_context_destroy(theria_context* context) { delete context; }

theria_code theria_context_device(theria_context* context, theria_device_info* info) {
  return OnContext(context, [&] {
    const theria::DeviceInfo& device = context->device();
    const theria_device_info known = {sizeof(theria_device_info), context->device_type(),
                                      device.memory_bytes,        device.id.c_str(),
                                      device.name.c_str(),        device.architecture.c_str()};
    return theria::c::Write(known, info, "info");
  });
}

theria_code theria_context_kernel(theria_context* context, int32_t index,
                                  theria_kernel_support* support) {
  return OnContext(context, [&]() -> absl::Status {
    const auto& kernels = context->kernels();
    if (index < 0 || static_cast<std::size_t>(index) >= kernels.size()) {
      return InvalidField("index",
                          theria::Message("is ", index, ", must be below ", kernels.size()));
    }
    const theria::KernelSupport& kernel = kernels[static_cast<std::size_t>(index)];
    const theria_kernel_support known = {sizeof(theria_kernel_support),
                                         static_cast<int32_t>(kernel.operation),
                                         static_cast<int32_t>(kernel.implementation),
                                         static_cast<int32_t>(kernel.dtype),
                                         kernel.min_head_dim,
                                         kernel.max_head_dim,
                                         kernel.head_dim_multiple};
    return theria::c::Write(known, support, "support");
  });
}

theria_code theria_validate(theria_operation operation, const theria_inputs* inputs,
                            const theria_options* options) {
  return Guarded([&] { return theria::c::ReadInputs(operation, inputs, options).status(); });
}

theria_code theria_output_layout(theria_operation operation, const theria_inputs* inputs,
                                 const theria_options* options, const char* output,
                                 theria_tensor* layout) {
  return Guarded([&]() -> absl::Status {
    const absl::StatusOr<Request> request = theria::c::ReadInputs(operation, inputs, options);
    if (!request.ok()) return request.status();
    if (output == nullptr || !theria::HasOutput(request->problem.operation, output)) {
      return InvalidField("output", theria::Message("is ", output == nullptr ? "NULL" : output,
                                                    ", must name an output of the operation"));
    }
    const absl::Status has_output =
        theria::CheckHasOutput(request->problem, output, theria::Message("outputs.", output));
    if (!has_output.ok()) return has_output;
    absl::StatusOr<theria_tensor> tensor = theria::c::Read(layout, "layout");
    if (!tensor.ok()) return tensor.status();
    const theria::MutableTensorView view = theria::OutputLayout(request->problem, output);
    tensor->dtype = static_cast<int32_t>(view.dtype);
    tensor->rank = view.rank;
    for (int axis = 0; axis < view.rank; ++axis) {
      tensor->shape[axis] = view.shape[axis];
      tensor->strides[axis] = view.strides[axis];
    }
    return theria::c::Write(*tensor, layout, "layout");
  });
}

theria_code theria_flops(theria_operation operation, const theria_inputs* inputs,
                         const theria_options* options, double* flops) {
  return Guarded([&]() -> absl::Status {
    const absl::StatusOr<Request> request = theria::c::ReadInputs(operation, inputs, options);
    if (!request.ok()) return request.status();
    if (flops == nullptr) return InvalidField("flops", "is NULL");
    *flops = theria::AttentionFlops(request->problem, request->inputs.options);
    return absl::OkStatus();
  });
}

theria_code theria_run(theria_context* context, theria_operation operation,
                       const theria_inputs* inputs, const theria_options* options,
                       const theria_outputs* outputs, const theria_launch* launch,
                       theria_report* report) {
  return OnContext(context, [&]() -> absl::Status {
    const absl::StatusOr<Request> request =
        theria::c::ReadCall(operation, inputs, options, outputs);
    if (!request.ok()) return request.status();
    absl::StatusOr<theria_launch> how = theria_launch{};
    if (launch != nullptr) how = theria::c::Read(launch, "launch");
    if (!how.ok()) return how.status();
    const absl::StatusOr<theria_report> done = context->Run(*request, *how);
    if (!done.ok()) return done.status();
    return report == nullptr ? absl::OkStatus() : theria::c::Write(*done, report, "report");
  });
}

theria_code theria_synchronize(theria_context* context, void* stream) {
  return OnContext(context, [&] { return context->Synchronize(stream); });
}

theria_code theria_memory_allocate(theria_context* context, size_t size_bytes, void** data) {
  return OnContext(context, [&]() -> absl::Status {
    if (data == nullptr) return InvalidField("data", "is NULL");
    const absl::StatusOr<void*> allocated = context->Allocate(size_bytes);
    if (allocated.ok()) *data = *allocated;
    return allocated.status();
  });
}

void theria_memory_free(theria_context* context, void* data) {
  if (context != nullptr) context->Free(data);
}

theria_code theria_memory_write(theria_context* context, void* device, const void* host,
                                size_t size_bytes) {
  return OnContext(context,
                   [&] { return context->memory().CopyFromHost(device, host, size_bytes); });
}

theria_code theria_memory_read(theria_context* context, void* host, const void* device,
                               size_t size_bytes) {
  return OnContext(context, [&] { return context->memory().CopyToHost(host, device, size_bytes); });
}
