#ifndef THERIA_SERVER_CACHE_TENSOR_SPEC_H_
#define THERIA_SERVER_CACHE_TENSOR_SPEC_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "server/cache/tensor_store.h"

namespace theria::server {

inline constexpr std::size_t kMaxTensorRank = 8;

// The bytes of a tensor of this spec, safe for any extents.
// Errors: INVALID_ARGUMENT with FieldOf "shape" (rank, or more than `max_tensor_bytes`) or
// "shape[axis]" (an extent below 1).
absl::StatusOr<std::size_t> CheckedSizeBytes(const TensorSpec& spec, std::size_t max_tensor_bytes);

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_TENSOR_SPEC_H_
