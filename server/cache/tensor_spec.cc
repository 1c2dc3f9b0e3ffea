#include "server/cache/tensor_spec.h"

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/api/attention.h"

namespace theria::server {

std::size_t TensorSpec::SizeBytes() const {
  std::size_t size_bytes = ItemSizeBytes(dtype);
  for (const std::int64_t extent : shape) size_bytes *= static_cast<std::size_t>(extent);
  return size_bytes;
}

absl::StatusOr<std::size_t> CheckedSizeBytes(const TensorSpec& spec, std::size_t max_tensor_bytes) {
  if (spec.shape.size() > kMaxTensorRank) {
    return InvalidField("shape", absl::StrCat("has ", spec.shape.size(),
                                              " dimensions, must have at most ", kMaxTensorRank));
  }
  for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
    if (spec.shape[axis] < 1) {
      return InvalidField(absl::StrCat("shape[", axis, "]"),
                          absl::StrCat("is ", spec.shape[axis], ", must be at least 1"));
    }
  }
  std::size_t size_bytes = ItemSizeBytes(spec.dtype);
  bool fits = size_bytes <= max_tensor_bytes;
  for (const std::int64_t extent : spec.shape) {
    fits = fits && static_cast<std::uint64_t>(extent) <= max_tensor_bytes / size_bytes;
    if (!fits) break;
    size_bytes *= static_cast<std::size_t>(extent);
  }
  if (!fits) {
    return InvalidField("shape", absl::StrCat("is [", absl::StrJoin(spec.shape, ", "), "] of ",
                                              std::string(DTypeName(spec.dtype)),
                                              ", must take at most ", max_tensor_bytes, " bytes"));
  }
  return size_bytes;
}

}  // namespace theria::server
