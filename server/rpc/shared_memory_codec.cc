#include "server/rpc/shared_memory_codec.h"

#include <utility>

#include "absl/time/time.h"
#include "kernels/api/attention.h"
#include "kernels/api/message.h"
#include "server/rpc/status_map.h"

namespace theria::server {

absl::StatusOr<SharedPart> DecodeSharedMemory(const v1::SharedMemoryRef& reference,
                                              SharedRegions* regions, const TenantId& tenant,
                                              std::string_view field) {
  if (regions == nullptr) {
    return absl::UnimplementedError(
        Message(field, " is not supported: this server shares no memory; send the elements"));
  }
  absl::StatusOr<SharedRegionPtr> region = regions->Acquire(tenant, reference.region());
  if (!region.ok()) return FromRegions(region.status(), field);
  const std::size_t end_bytes = (*region)->size_bytes();
  if (reference.offset_bytes() % kRegionAlignmentBytes != 0) {
    return InvalidField(Message(field, ".offset_bytes"),
                        Message("is ", reference.offset_bytes(), ", must be a multiple of ",
                                kRegionAlignmentBytes));
  }
  if (reference.offset_bytes() > end_bytes ||
      reference.size_bytes() > end_bytes - reference.offset_bytes()) {
    return InvalidField(Message(field, ".size_bytes"),
                        Message("is ", reference.size_bytes(), " at ", reference.offset_bytes(),
                                ", the region has ", end_bytes));
  }
  return SharedPart{*std::move(region), static_cast<std::size_t>(reference.offset_bytes()),
                    static_cast<std::size_t>(reference.size_bytes())};
}

absl::Status FromRegions(const absl::Status& status, std::string_view field) {
  return absl::IsNotFound(status) ? RegionMissing(field) : status;
}

void EncodeRegionInfo(const SharedRegionInfo& info, v1::RegionInfo& encoded) {
  encoded.set_name(info.name);
  encoded.set_size_bytes(info.size_bytes);
  encoded.set_expires_in_ms(
      absl::ToInt64Milliseconds(absl::Ceil(info.expires_in, absl::Milliseconds(1))));
  encoded.set_device(info.device);
}

}  // namespace theria::server
