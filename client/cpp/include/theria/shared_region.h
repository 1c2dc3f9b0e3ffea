#ifndef THERIA_SHARED_REGION_H_
#define THERIA_SHARED_REGION_H_

#include <cstddef>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "theria/tensor.h"

// Memory that this process and a server on the same host both see.

namespace theria::client {

// A region of shared memory, in which tensors can be made.
//
// Made by Client::Share. Calls of the client that made it read tensors in it where they are,
// strided views too as long as their first element is at a multiple of 256 bytes; where
// OutputSpec::region names it, they leave outputs there. Until a call returns, leave alone what it
// reads. Should the server lose the region (its lease ended, the server restarted, perhaps without
// shared memory), calls go by messages as if nothing were shared; is_shared then tells, and
// Client::Share makes another region.
//
// A cheap value: copies refer to the same region. The memory is unmapped with the last copy and the
// last tensor in it; the server's part ends by Client::Unshare or with the lease. Thread-safe.
class SharedRegion {
 public:
  std::size_t size_bytes() const;

  // Whether the server has the region, as far as the calls so far have told.
  bool is_shared() const;

  // A row-major tensor in the region, its elements whatever was there before; Tensor's
  // mutable_values writes them. Its room is free again when the last copy or view is gone.
  // REQUIRES: every extent is at least 1. Errors: RESOURCE_EXHAUSTED: no such room in one piece.
  absl::StatusOr<Tensor> NewTensor(DType dtype, const Shape& shape) const;

  // A row-major copy of `tensor` in the region. Errors: as NewTensor.
  absl::StatusOr<Tensor> Copy(const Tensor& tensor) const;

  // Shared by all copies. Defined by the library alone.
  class State;
  explicit SharedRegion(std::shared_ptr<State> state) : state_(std::move(state)) {}
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  std::shared_ptr<State> state_;
};

}  // namespace theria::client

#endif  // THERIA_SHARED_REGION_H_
