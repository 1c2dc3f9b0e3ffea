#include "kernels/cuda/runtime/transfer.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cuda/runtime/cuda_check.h"

namespace theria::cuda {
namespace {

// Below this, asking whether memory is pinned costs more than staging it.
constexpr std::size_t kMinDirectBytes = std::size_t{256} << 10;

bool IsPinned(const void* data) {
  cudaPointerAttributes attributes = {};
  return cudaPointerGetAttributes(&attributes, data) == cudaSuccess &&
         attributes.type == cudaMemoryTypeHost;
}

bool IsDirect(const void* host, std::size_t size_bytes) {
  return size_bytes >= kMinDirectBytes && IsPinned(host);
}

const char* At(const void* data, std::size_t offset_bytes) {
  return static_cast<const char*>(data) + offset_bytes;
}

char* At(void* data, std::size_t offset_bytes) { return static_cast<char*>(data) + offset_bytes; }

}  // namespace

absl::StatusOr<std::unique_ptr<TransferLane>> TransferLane::Create() {
  std::unique_ptr<TransferLane> lane(new TransferLane());
  THERIA_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(&lane->stream_, cudaStreamNonBlocking));
  for (Block& block : lane->blocks_) {
    void* data = nullptr;
    THERIA_CUDA_RETURN_IF_ERROR(cudaMallocHost(&data, kBlockBytes));
    block.data = static_cast<char*>(data);
    THERIA_CUDA_RETURN_IF_ERROR(cudaEventCreateWithFlags(&block.done, cudaEventDisableTiming));
  }
  return lane;
}

TransferLane::~TransferLane() {
  for (const Block& block : blocks_) {
    if (block.done != nullptr) cudaEventDestroy(block.done);
    if (block.data != nullptr) cudaFreeHost(block.data);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status TransferLane::CopyFromHost(absl::Span<const MemoryCopy> copies) {
  absl::Status status;
  for (const MemoryCopy& copy : copies) {
    status = EnqueueFromHost(copy);
    if (!status.ok()) break;
  }
  return Finish(std::move(status));
}

absl::Status TransferLane::CopyToHost(absl::Span<const MemoryCopy> copies) {
  absl::Status status;
  for (const MemoryCopy& copy : copies) {
    status = EnqueueToHost(copy);
    if (!status.ok()) break;
  }
  return Finish(std::move(status));
}

absl::Status TransferLane::EnqueueFromHost(const MemoryCopy& copy) {
  if (IsDirect(copy.source, copy.size_bytes)) {
    return CudaStatus(cudaMemcpyAsync(copy.destination, copy.source, copy.size_bytes,
                                      cudaMemcpyHostToDevice, stream_),
                      "copy to the device");
  }
  for (std::size_t done_bytes = 0; done_bytes < copy.size_bytes;) {
    if (current().used_bytes == kBlockBytes) {
      if (absl::Status next = NextBlock(); !next.ok()) return next;
    }
    Block& block = current();
    const std::size_t size_bytes =
        std::min(copy.size_bytes - done_bytes, kBlockBytes - block.used_bytes);
    char* const staged = block.data + block.used_bytes;
    std::memcpy(staged, At(copy.source, done_bytes), size_bytes);
    char* const destination = At(copy.destination, done_bytes);
    if (At(staged_.destination, staged_.size_bytes) != destination ||
        At(staged_.source, staged_.size_bytes) != staged) {
      if (absl::Status started = StartStaged(); !started.ok()) return started;
      staged_ = {destination, staged, 0};
    }
    staged_.size_bytes += size_bytes;
    block.used_bytes += size_bytes;
    done_bytes += size_bytes;
  }
  return absl::OkStatus();
}

absl::Status TransferLane::EnqueueToHost(const MemoryCopy& copy) {
  if (IsDirect(copy.destination, copy.size_bytes)) {
    return CudaStatus(cudaMemcpyAsync(copy.destination, copy.source, copy.size_bytes,
                                      cudaMemcpyDeviceToHost, stream_),
                      "copy from the device");
  }
  for (std::size_t done_bytes = 0; done_bytes < copy.size_bytes;) {
    if (current().used_bytes == kBlockBytes) {
      if (absl::Status next = NextBlock(); !next.ok()) return next;
    }
    Block& block = current();
    const std::size_t size_bytes =
        std::min(copy.size_bytes - done_bytes, kBlockBytes - block.used_bytes);
    char* const staged = block.data + block.used_bytes;
    THERIA_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(staged, At(copy.source, done_bytes), size_bytes,
                                                cudaMemcpyDeviceToHost, stream_));
    block.pieces.push_back({At(copy.destination, done_bytes), staged, size_bytes});
    block.used_bytes += size_bytes;
    done_bytes += size_bytes;
  }
  return absl::OkStatus();
}

absl::Status TransferLane::StartStaged() {
  const MemoryCopy staged = std::exchange(staged_, {});
  if (staged.size_bytes == 0) return absl::OkStatus();
  return CudaStatus(cudaMemcpyAsync(staged.destination, staged.source, staged.size_bytes,
                                    cudaMemcpyHostToDevice, stream_),
                    "copy to the device");
}

absl::Status TransferLane::NextBlock() {
  if (absl::Status started = StartStaged(); !started.ok()) return started;
  THERIA_CUDA_RETURN_IF_ERROR(cudaEventRecord(current().done, stream_));
  current_ = 1 - current_;
  return Empty(current());
}

absl::Status TransferLane::Empty(Block& block) {
  THERIA_CUDA_RETURN_IF_ERROR(cudaEventSynchronize(block.done));
  for (const Piece& piece : block.pieces) {
    std::memcpy(piece.destination, piece.source, piece.size_bytes);
  }
  block.pieces.clear();
  block.used_bytes = 0;
  return absl::OkStatus();
}

absl::Status TransferLane::Finish(absl::Status status) {
  if (status.ok()) status = StartStaged();
  staged_ = {};
  status.Update(CudaStatus(cudaStreamSynchronize(stream_), "wait for a copy"));
  for (const std::size_t index : {1 - current_, current_}) {  // the older one first
    Block& block = blocks_[index];
    if (status.ok()) status = Empty(block);
    block.pieces.clear();
    block.used_bytes = 0;
  }
  return status;
}

absl::StatusOr<TransferPool::Borrowed> TransferPool::Borrow() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<TransferLane> lane = std::move(idle_.back());
      idle_.pop_back();
      return Borrowed(lane.release(), Return(this));
    }
  }
  absl::StatusOr<std::unique_ptr<TransferLane>> lane = TransferLane::Create();
  if (!lane.ok()) return lane.status();
  return Borrowed(lane->release(), Return(this));
}

void TransferPool::Put(TransferLane* lane) {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.emplace_back(lane);
}

}  // namespace theria::cuda
