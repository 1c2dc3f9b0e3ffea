#include <xla/ffi/api/ffi.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/c/include/theria/kernels.h"
#include "kernels/c/jax/call.h"

// XLA's custom calls, by jax.ffi: theria_jax_OPERATION_PLATFORM. Both platforms need nothing but
// theria/kernels.h, so that one library serves JAX on the CPU and on CUDA.

namespace {

namespace ffi = xla::ffi;
using theria::jax::Place;
using theria::jax::Run;

template <theria_operation operation>
ffi::Error OnCpu(ffi::RemainingArgs operands, ffi::RemainingRets results,
                 ffi::Dictionary attributes) {
  const Place place = {THERIA_CPU, 0, {.struct_size = sizeof(theria_launch)}};
  return Run(operation, place, operands, results, attributes);
}

// For theria_launch. XLA frees its scratch memory, in the stream's order, when the handler returns.
// It promises an alignment of 16 bytes; the kernels want 256.
void* AllocateScratch(void* user, std::size_t size_bytes, void* /*stream*/) {
  constexpr std::size_t kAlignment = 256;
  constexpr std::size_t kPromised = 16;
  try {
    const std::optional<void*> scratch = static_cast<ffi::ScratchAllocator*>(user)->Allocate(
        size_bytes + kAlignment - kPromised, kPromised);
    if (!scratch) return nullptr;
    const auto address = reinterpret_cast<std::uintptr_t>(*scratch);
    return reinterpret_cast<void*>((address + kAlignment - 1) & ~(kAlignment - 1));
  } catch (...) {
    return nullptr;
  }
}

// Enqueues on XLA's stream. Not a handler that XLA may record into a command buffer: a recorded
// kernel would write to its scratch memory when that has long been someone else's.
template <theria_operation operation>
ffi::Error OnCuda(void* stream, int32_t ordinal, ffi::ScratchAllocator scratch,
                  ffi::RemainingArgs operands, ffi::RemainingRets results,
                  ffi::Dictionary attributes) {
  const Place place = {THERIA_CUDA,
                       ordinal,
                       {.struct_size = sizeof(theria_launch),
                        .stream = stream,
                        .allocate = AllocateScratch,
                        .user = &scratch}};
  return Run(operation, place, operands, results, attributes);
}

auto CpuBinding() { return ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs(); }

auto CudaBinding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::PlatformStream<void*>>()
      .Ctx<ffi::DeviceOrdinal>()
      .Ctx<ffi::ScratchAllocator>()
      .RemainingArgs()
      .RemainingRets()
      .Attrs();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(theria_jax_forward_cpu, OnCpu<THERIA_FORWARD>, CpuBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(theria_jax_vjp_cpu, OnCpu<THERIA_VJP>, CpuBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(theria_jax_jvp_cpu, OnCpu<THERIA_JVP>, CpuBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(theria_jax_hvp_cpu, OnCpu<THERIA_HVP>, CpuBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(theria_jax_forward_cuda, OnCuda<THERIA_FORWARD>, CudaBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(theria_jax_vjp_cuda, OnCuda<THERIA_VJP>, CudaBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(theria_jax_jvp_cuda, OnCuda<THERIA_JVP>, CudaBinding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(theria_jax_hvp_cuda, OnCuda<THERIA_HVP>, CudaBinding());
