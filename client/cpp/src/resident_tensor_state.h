#ifndef THERIA_CLIENT_CPP_SRC_RESIDENT_TENSOR_STATE_H_
#define THERIA_CLIENT_CPP_SRC_RESIDENT_TENSOR_STATE_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "theria/client.h"
#include "theria/resident_tensor.h"

namespace theria::client {

class Connection;

// What is needed to upload a tensor again.
struct RetainedSource {
  Tensor tensor;
  PutOptions options;
  // Of the client that put it. To others the tensor may be unknown for being another server's or
  // another tenant's, who is not to have its elements.
  std::weak_ptr<const Connection> owner;
};

// What the copies of a ResidentTensor share. Thread-safe.
struct ResidentTensor::State {
  State(DType dtype, Shape shape, std::string handle)
      : dtype(dtype), shape(std::move(shape)), handle(std::move(handle)) {}

  const DType dtype;
  const Shape shape;

  // Held during an upload anew, so that concurrent calls that miss one tensor upload it once.
  absl::Mutex upload_mutex ABSL_ACQUIRED_BEFORE(mutex);

  absl::Mutex mutex;
  std::string handle ABSL_GUARDED_BY(mutex);
  std::vector<std::string> lost_handles ABSL_GUARDED_BY(mutex);  // that it had before
  std::optional<RetainedSource> source ABSL_GUARDED_BY(mutex);
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_RESIDENT_TENSOR_STATE_H_
