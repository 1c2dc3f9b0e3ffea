#ifndef THERIA_SERVER_RPC_SHARED_MEMORY_CODEC_H_
#define THERIA_SERVER_RPC_SHARED_MEMORY_CODEC_H_

#include <cstddef>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/cache/shared_regions.h"
#include "theria/v1/shared_memory.pb.h"
#include "theria/v1/tensor.pb.h"

// Shared memory in the words of theria.v1, and back.

namespace theria::server {

// What offsets of tensors in a region are multiples of.
inline constexpr std::size_t kRegionAlignmentBytes = 256;

// Part of a region, which it keeps in place.
struct SharedPart {
  SharedRegionPtr region;
  std::size_t offset_bytes = 0;
  std::size_t size_bytes = 0;

  char* data() const { return region->data() + offset_bytes; }
  bool Overlaps(const SharedPart& other) const {
    return region == other.region && offset_bytes < other.offset_bytes + other.size_bytes &&
           other.offset_bytes < offset_bytes + size_bytes;
  }
};

// `regions` null: none are shared. Errors: UNIMPLEMENTED; RegionMissing(field); INVALID_ARGUMENT
// with FieldOf below `field`.
absl::StatusOr<SharedPart> DecodeSharedMemory(const v1::SharedMemoryRef& reference,
                                              SharedRegions* regions, const TenantId& tenant,
                                              std::string_view field);

// The status of the edge for one of SharedRegions', whose region `field` names.
absl::Status FromRegions(const absl::Status& status, std::string_view field);

void EncodeRegionInfo(const SharedRegionInfo& info, v1::RegionInfo& encoded);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_SHARED_MEMORY_CODEC_H_
