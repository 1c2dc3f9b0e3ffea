#ifndef THERIA_KERNELS_CUDA_RUNTIME_TRANSFER_H_
#define THERIA_KERNELS_CUDA_RUNTIME_TRANSFER_H_

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/api/memory.h"

// Copies between the host and a device. Pageable memory goes through two pinned blocks in turn, one
// being filled (emptied) by the host while the device copies the other; pinned memory goes
// straight.

namespace theria::cuda {

// A stream and two pinned blocks. Owned; not thread-safe.
class TransferLane {
 public:
  static constexpr std::size_t kBlockBytes = std::size_t{4} << 20;

  // Of the current device. Errors: RESOURCE_EXHAUSTED, INTERNAL.
  static absl::StatusOr<std::unique_ptr<TransferLane>> Create();
  ~TransferLane();
  TransferLane(const TransferLane&) = delete;
  TransferLane& operator=(const TransferLane&) = delete;

  // Each returns when all copies are complete. Errors: INTERNAL.
  absl::Status CopyFromHost(absl::Span<const MemoryCopy> copies);
  absl::Status CopyToHost(absl::Span<const MemoryCopy> copies);

 private:
  // What waits in a block to be copied on by the host.
  struct Piece {
    void* destination;
    const void* source;
    std::size_t size_bytes;
  };
  struct Block {
    char* data = nullptr;
    cudaEvent_t done = nullptr;  // the device has read (written) it
    std::size_t used_bytes = 0;
    std::vector<Piece> pieces;
  };

  TransferLane() = default;
  Block& current() { return blocks_[current_]; }
  absl::Status EnqueueFromHost(const MemoryCopy& copy);
  absl::Status EnqueueToHost(const MemoryCopy& copy);
  // Starts what the host has laid into the current block and the device has not been told of.
  absl::Status StartStaged();
  // Ends the current block and makes the other one free to use.
  absl::Status NextBlock();
  // Waits for the device, and hands what came from it to the host.
  absl::Status Empty(Block& block);
  // Waits for everything, whatever went wrong; `status` or what goes wrong now.
  absl::Status Finish(absl::Status status);

  cudaStream_t stream_ = nullptr;
  std::array<Block, 2> blocks_;
  std::size_t current_ = 0;
  MemoryCopy staged_ = {};  // pieces that follow one another at both ends travel as one
};

// Lanes that callers borrow. Thread-safe; must outlive what it lends.
class TransferPool {
 public:
  class Return {
   public:
    explicit Return(TransferPool* pool) : pool_(pool) {}
    void operator()(TransferLane* lane) const { pool_->Put(lane); }

   private:
    TransferPool* pool_;
  };
  using Borrowed = std::unique_ptr<TransferLane, Return>;

  // An idle lane of the current device. Errors: RESOURCE_EXHAUSTED, INTERNAL.
  absl::StatusOr<Borrowed> Borrow();

 private:
  void Put(TransferLane* lane);

  std::mutex mutex_;
  std::vector<std::unique_ptr<TransferLane>> idle_;
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_RUNTIME_TRANSFER_H_
