#ifndef THERIA_KERNELS_C_CONTEXT_H_
#define THERIA_KERNELS_C_CONTEXT_H_

#include <cstddef>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/backend.h"
#include "kernels/api/stream_backend.h"
#include "kernels/c/include/theria/kernels.h"
#include "kernels/c/request.h"

// The C interface's context: a backend, with the memory that callers hold of it. Thread-safe.
struct theria_context {
 public:
  // Errors: INVALID_ARGUMENT, UNAVAILABLE, INTERNAL.
  static absl::StatusOr<std::unique_ptr<theria_context>> Create(
      const theria_context_options& options);

  theria_device_type device_type() const { return stream_ ? THERIA_CUDA : THERIA_CPU; }
  const theria::DeviceInfo& device() const { return device_; }
  const std::vector<theria::KernelSupport>& kernels() const { return kernels_; }
  theria::Memory& memory() { return backend().memory(); }

  // Runs on the CPU, enqueues on CUDA. Errors: as theria_run.
  absl::StatusOr<theria_report> Run(const theria::c::Request& request, const theria_launch& launch);

  absl::Status Synchronize(void* stream);

  absl::StatusOr<void*> Allocate(std::size_t size_bytes);
  void Free(void* data);

 private:
  theria_context() = default;
  theria::Backend& backend() { return stream_ != nullptr ? *stream_ : *host_; }
  absl::StatusOr<theria_report> RunOnHost(const theria::c::Request& request,
                                          const theria_launch& launch);
  absl::StatusOr<theria_report> RunOnStream(const theria::c::Request& request,
                                            const theria_launch& launch);

  // One of the two.
  std::unique_ptr<theria::Backend> host_;
  std::unique_ptr<theria::StreamBackend> stream_;
  theria::DeviceInfo device_;
  std::vector<theria::KernelSupport> kernels_;
  std::mutex mutex_;
  std::unordered_map<void*, theria::Buffer> buffers_;  // guarded by mutex_; dies before the backend
};

#endif  // THERIA_KERNELS_C_CONTEXT_H_
