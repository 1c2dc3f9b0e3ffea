#include "kernels/cuda/runtime/stream.h"

#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/runtime/cuda_check.h"

namespace theria::cuda {

absl::StatusOr<std::unique_ptr<Stream>> Stream::Create() {
  std::unique_ptr<Stream> stream(new Stream());
  THERIA_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(&stream->stream_, cudaStreamNonBlocking));
  THERIA_CUDA_RETURN_IF_ERROR(cudaEventCreate(&stream->begin_));
  THERIA_CUDA_RETURN_IF_ERROR(cudaEventCreate(&stream->end_));
  return stream;
}

Stream::~Stream() {
  if (end_ != nullptr) cudaEventDestroy(end_);
  if (begin_ != nullptr) cudaEventDestroy(begin_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status Stream::BeginTiming() {
  return CudaStatus(cudaEventRecord(begin_, stream_), "cudaEventRecord");
}

absl::StatusOr<absl::Duration> Stream::Finish() {
  float milliseconds = 0.0f;
  THERIA_CUDA_RETURN_IF_ERROR(cudaEventRecord(end_, stream_));
  THERIA_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_));
  THERIA_CUDA_RETURN_IF_ERROR(cudaEventElapsedTime(&milliseconds, begin_, end_));
  return absl::Milliseconds(static_cast<double>(milliseconds));
}

absl::StatusOr<StreamPool::Borrowed> StreamPool::Borrow() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Stream> stream = std::move(idle_.back());
      idle_.pop_back();
      return Borrowed(stream.release(), Return(this));
    }
  }
  absl::StatusOr<std::unique_ptr<Stream>> stream = Stream::Create();
  if (!stream.ok()) return stream.status();
  return Borrowed(stream->release(), Return(this));
}

void StreamPool::Put(Stream* stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.emplace_back(stream);
}

}  // namespace theria::cuda
