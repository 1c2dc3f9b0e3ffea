#ifndef THERIA_KERNELS_CUDA_RUNTIME_STREAM_H_
#define THERIA_KERNELS_CUDA_RUNTIME_STREAM_H_

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace theria::cuda {

// A stream with the two events that time its work. Owned; not thread-safe.
class Stream {
 public:
  // A non-blocking stream of the current device. Errors: INTERNAL.
  static absl::StatusOr<std::unique_ptr<Stream>> Create();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }

  // Marks the begin of what is timed. Asynchronous.
  absl::Status BeginTiming();
  // Waits for everything enqueued, and returns the device's time since BeginTiming.
  absl::StatusOr<absl::Duration> Finish();

 private:
  Stream() = default;

  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

// Streams that callers borrow. Thread-safe; must outlive what it lends.
class StreamPool {
 public:
  class Return {
   public:
    explicit Return(StreamPool* pool) : pool_(pool) {}
    void operator()(Stream* stream) const { pool_->Put(stream); }

   private:
    StreamPool* pool_;
  };
  using Borrowed = std::unique_ptr<Stream, Return>;

  // A stream with no work on it, on the current device. Errors: INTERNAL.
  absl::StatusOr<Borrowed> Borrow();

 private:
  void Put(Stream* stream);

  std::mutex mutex_;
  std::vector<std::unique_ptr<Stream>> idle_;
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_RUNTIME_STREAM_H_
