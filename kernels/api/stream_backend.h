#ifndef THERIA_KERNELS_API_STREAM_BACKEND_H_
#define THERIA_KERNELS_API_STREAM_BACKEND_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/api/backend.h"

namespace theria {

// Device memory that a caller of StreamBackend provides; all of it may be absent.
struct CallerWorkspace {
  // Used first. 256-byte aligned; the call may overwrite it until the stream has passed the call.
  void* block = nullptr;
  std::size_t block_bytes = 0;
  // Used for what does not fit into the block; null: the device's pool. `allocate` returns
  // 256-byte aligned memory for later work on the stream, or null where there is none.
  void* (*allocate)(void* user, std::size_t size_bytes, void* stream) = nullptr;
  void (*deallocate)(void* user, void* data, std::size_t size_bytes, void* stream) = nullptr;
  void* user = nullptr;
};

struct EnqueueReport {
  Implementation implementation = Implementation::kReference;
  std::string kernel;
  std::size_t workspace_bytes = 0;
};

// A backend whose device works on streams, for callers that have streams and memory of their own.
class StreamBackend : public Backend {
 public:
  // As Run, on `stream`, but returns once the work is enqueued. Does not synchronise, leaves the
  // thread's current device as it was, and can be captured into a graph once the same kind of call
  // has run on that stream. Inputs, outputs and workspace must live until the stream has passed the
  // call.
  virtual absl::StatusOr<EnqueueReport> Enqueue(const AttentionProblem& problem,
                                                const AttentionInputs& inputs,
                                                const AttentionOutputs& outputs, void* stream,
                                                const CallerWorkspace& workspace) = 0;

  // Waits for all that is enqueued on `stream`. Errors: INTERNAL.
  virtual absl::Status Synchronize(void* stream) = 0;
};

}  // namespace theria

#endif  // THERIA_KERNELS_API_STREAM_BACKEND_H_
