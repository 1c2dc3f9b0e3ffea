#ifndef THERIA_SERVER_RPC_DEVICE_STAGING_H_
#define THERIA_SERVER_RPC_DEVICE_STAGING_H_

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/api/memory.h"
#include "kernels/api/tensor_view.h"
#include "server/cache/tensor_store.h"

// The tensors of one call that lie in host memory, in front of a backend whose memory the host
// cannot access: one block there takes all of them, inputs travel to it together before the
// computation and outputs back after it. Not thread-safe.

namespace theria::server {

class DeviceStaging {
 public:
  // `store`, over the backend's memory, gives up tensors where that memory is full, at the cost of
  // `tenant`. It must outlive this.
  DeviceStaging(TensorStore& store, TenantId tenant);

  // A view of host memory, which Upload makes one of the device's. REQUIRES: it stays in place.
  void AddInput(TensorView& view);
  // One without data, whose bytes are in pieces. REQUIRES: they stay in place.
  void AddInput(TensorView& view, absl::Span<const absl::Span<const char>> pieces);
  void AddOutput(MutableTensorView& view);

  // Errors: RESOURCE_EXHAUSTED, INTERNAL.
  absl::Status Upload();
  // The outputs, to where they were at first. REQUIRES: Upload succeeded. Errors: INTERNAL.
  absl::Status Download();

 private:
  // Reserves room in the block. Returns its offset.
  std::size_t Reserve(std::size_t size_bytes);

  struct Input {
    TensorView* view;
    std::size_t offset_bytes;
  };
  struct Output {
    MutableTensorView* view;
    std::size_t offset_bytes;
    std::size_t size_bytes;
  };
  // Of an input, and its place in the block.
  struct Piece {
    std::size_t offset_bytes;
    absl::Span<const char> bytes;
  };

  TensorStore& store_;
  const TenantId tenant_;
  std::vector<Input> inputs_;
  std::vector<Piece> pieces_;
  std::vector<Output> outputs_;
  std::vector<MemoryCopy> downloads_;
  std::size_t block_bytes_ = 0;
  Buffer block_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_DEVICE_STAGING_H_
