#include "client/cpp/src/shared_regions.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace theria::client {

void SharedRegions::Add(const SharedRegion& region) {
  absl::MutexLock lock(&mutex_);
  regions_.erase(std::remove_if(regions_.begin(), regions_.end(),
                                [](const auto& known) { return known.expired(); }),
                 regions_.end());
  regions_.push_back(region.state());
}

std::vector<std::shared_ptr<SharedRegion::State>> SharedRegions::All() const {
  std::vector<std::shared_ptr<SharedRegion::State>> regions;
  absl::MutexLock lock(&mutex_);
  for (const auto& known : regions_) {
    std::shared_ptr<SharedRegion::State> region = known.lock();
    if (region != nullptr && region->is_shared()) regions.push_back(std::move(region));
  }
  return regions;
}

bool SharedRegions::Has(const SharedRegion& region) const {
  const auto regions = All();
  return std::find(regions.begin(), regions.end(), region.state()) != regions.end();
}

std::optional<v1::SharedMemoryRef> SharedRegions::PartOf(const Tensor& tensor) const {
  if (tensor.num_elements() == 0) return std::nullopt;
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data());
  for (const auto& region : All()) {
    const auto begin = reinterpret_cast<std::uintptr_t>(region->data());
    const std::size_t offset_bytes = address - begin;
    if (address < begin || offset_bytes >= region->size_bytes() ||
        tensor.span_bytes() > region->size_bytes() - offset_bytes ||
        offset_bytes % SharedRegion::State::kAlignmentBytes != 0) {
      continue;
    }
    v1::SharedMemoryRef part;
    part.set_region(region->name());
    part.set_offset_bytes(offset_bytes);
    part.set_size_bytes(tensor.span_bytes());
    return part;
  }
  return std::nullopt;
}

}  // namespace theria::client
