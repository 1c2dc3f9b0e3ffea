#ifndef THERIA_SHARED_REGION_H_
#define THERIA_SHARED_REGION_H_

#include <cstddef>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "theria/tensor.h"

// Memory shared by this process and a server on the same host.

namespace theria::client {

// A region of shared memory that holds tensors.
//
// Client::Share creates it. Calls of that client read tensors in the region in place, including
// strided views whose first element is at a multiple of 256 bytes. Outputs are written to the
// region if OutputSpec::region names it. Do not change the inputs of a call until it has returned.
// If the server loses the region (its lease ended, or the server was restarted, perhaps without
// shared memory), calls send their tensors in messages. is_shared() is then false, and
// Client::Share creates another region.
//
// It is cheap to copy, and copies refer to the same region. The memory is unmapped after the last
// copy and the last tensor in it are destroyed. Client::Unshare or the end of the lease releases it
// on the server. Thread-safe.
class SharedRegion {
 public:
  std::size_t size_bytes() const;

  // Whether the server has the region, according to the last call that used it.
  bool is_shared() const;

  // A row-major tensor in the region with unspecified elements; Tensor::mutable_values writes them.
  // Its space is reused after the last copy or view is destroyed.
  // REQUIRES: every extent is at least 1. Errors: RESOURCE_EXHAUSTED: no such contiguous space.
  absl::StatusOr<Tensor> NewTensor(DType dtype, const Shape& shape) const;

  // A row-major copy of `tensor` in the region. Errors: as for NewTensor.
  absl::StatusOr<Tensor> Copy(const Tensor& tensor) const;

  // Shared by all copies. Private to the library.
  class State;
  explicit SharedRegion(std::shared_ptr<State> state) : state_(std::move(state)) {}
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  std::shared_ptr<State> state_;
};

}  // namespace theria::client

#endif  // THERIA_SHARED_REGION_H_
