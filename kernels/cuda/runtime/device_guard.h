#ifndef THERIA_KERNELS_CUDA_RUNTIME_DEVICE_GUARD_H_
#define THERIA_KERNELS_CUDA_RUNTIME_DEVICE_GUARD_H_

#include <cuda_runtime_api.h>

namespace theria::cuda {

// Makes a device the thread's current one for a scope. The caller's own choice of a device is its
// business: in its process it must find it unchanged.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    error_ = cudaGetDevice(&previous_);
    if (error_ != cudaSuccess || previous_ == device) return;
    error_ = cudaSetDevice(device);
    changed_ = error_ == cudaSuccess;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  cudaError_t error() const { return error_; }

 private:
  int previous_ = 0;
  bool changed_ = false;
  cudaError_t error_;
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_RUNTIME_DEVICE_GUARD_H_
