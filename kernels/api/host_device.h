#ifndef THERIA_KERNELS_API_HOST_DEVICE_H_
#define THERIA_KERNELS_API_HOST_DEVICE_H_

// Marks the few functions that CPU and CUDA code share to the letter.
#ifdef __CUDACC__
#define THERIA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define THERIA_HOST_DEVICE inline
#endif

#endif  // THERIA_KERNELS_API_HOST_DEVICE_H_
