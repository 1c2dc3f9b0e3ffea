#include "server/cache/shared_regions.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/api/attention.h"
#include "server/cache/monotonic_clock.h"

namespace theria::server {
namespace {

absl::Status Missing() {
  return absl::NotFoundError("no region has this name; it is unknown, expired or deleted");
}

// Whether one who holds `held` of `used` may have `more` of `capacity`.
bool IsFair(std::size_t held, std::size_t used, std::size_t more, std::size_t capacity,
            double max_share_of_free) {
  if (used > capacity || more > capacity - used) return false;
  return max_share_of_free == 0.0 ||
         static_cast<double>(held + more) <=
             max_share_of_free * static_cast<double>(capacity - used - more);
}

}  // namespace

SharedRegion::~SharedRegion() {
  file_.reset();
  lent_ = Buffer();
  regions_.Release(*this);
}

SharedRegions::SharedRegions(Options options, Memory* device)
    : options_([&options] {
        options.default_ttl = std::min(options.default_ttl, options.max_ttl);
        if (!options.clock) options.clock = MonotonicNow;
        return std::move(options);
      }()),
      device_(device != nullptr && !device->host_accessible() ? device : nullptr) {}

SharedRegions::~SharedRegions() {
  // Their destructors use the maps.
  std::vector<std::shared_ptr<SharedRegion>> garbage;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [name, entry] : entries_) garbage.push_back(std::move(entry.region));
    entries_.clear();
  }
}

absl::StatusOr<absl::Duration> SharedRegions::ResolveTtl(absl::Duration asked,
                                                         absl::Duration fallback) const {
  if (asked == absl::ZeroDuration()) return fallback;
  if (asked > absl::ZeroDuration() && asked <= options_.max_ttl) return asked;
  return InvalidField("ttl_ms",
                      absl::StrCat("is ", absl::ToInt64Milliseconds(asked), ", must be from 0 to ",
                                   absl::ToInt64Milliseconds(options_.max_ttl)));
}

absl::StatusOr<std::shared_ptr<SharedRegion>> SharedRegions::Claim(const TenantId& tenant,
                                                                   std::size_t size_bytes,
                                                                   std::size_t host_bytes) {
  CollectExpired();  // what it drops counts no more
  const std::lock_guard lock(mutex_);
  Usage& held = used_by_tenant_[tenant];
  const double share = options_.max_share_of_free;
  if (!IsFair(held.bytes, used_.bytes, host_bytes, options_.capacity_bytes, share) ||
      !IsFair(held.regions, used_.regions, 1, options_.max_regions, share)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "no room for ", size_bytes, " bytes of shared memory more; delete other regions"));
  }
  for (Usage* usage : {&held, &used_}) {
    usage->bytes += host_bytes;
    ++usage->regions;
  }
  return std::shared_ptr<SharedRegion>(new SharedRegion(*this, tenant, size_bytes, host_bytes));
}

void SharedRegions::Release(const SharedRegion& region) {
  const std::lock_guard lock(mutex_);
  const auto held = used_by_tenant_.find(region.tenant_);
  for (Usage* usage : {&held->second, &used_}) {
    usage->bytes -= region.host_bytes_;
    --usage->regions;
  }
  if (held->second.regions == 0) used_by_tenant_.erase(held);
}

absl::StatusOr<SharedRegionInfo> SharedRegions::Create(const TenantId& tenant,
                                                       std::size_t size_bytes, absl::Duration ttl) {
  const absl::StatusOr<absl::Duration> lease = ResolveTtl(ttl, options_.default_ttl);
  if (!lease.ok()) return lease.status();
  if (size_bytes == 0 || size_bytes > options_.capacity_bytes) {
    return InvalidField("size_bytes", absl::StrCat("is ", size_bytes, ", must be from 1 to ",
                                                   options_.capacity_bytes));
  }
  absl::StatusOr<std::shared_ptr<SharedRegion>> region = Claim(tenant, size_bytes, size_bytes);
  if (!region.ok()) return region.status();
  absl::StatusOr<std::unique_ptr<MemoryFile>> file = MemoryFile::Create(size_bytes);
  if (!file.ok()) return file.status();
  (*region)->file_ = *std::move(file);
  return Add(*std::move(region), *lease);
}

absl::StatusOr<SharedRegionInfo> SharedRegions::Import(const TenantId& tenant,
                                                       std::string_view ipc_handle,
                                                       std::size_t size_bytes, absl::Duration ttl) {
  if (device_ == nullptr) {
    return absl::UnimplementedError("this server has no GPU whose memory could be shared");
  }
  const absl::StatusOr<absl::Duration> lease = ResolveTtl(ttl, options_.default_ttl);
  if (!lease.ok()) return lease.status();
  if (size_bytes == 0) return InvalidField("size_bytes", "is 0, must be at least 1");
  absl::StatusOr<std::shared_ptr<SharedRegion>> region = Claim(tenant, size_bytes, 0);
  if (!region.ok()) return region.status();
  absl::StatusOr<Buffer> lent = device_->Import(ipc_handle, size_bytes);
  if (!lent.ok()) return lent.status();
  (*region)->lent_ = *std::move(lent);
  return Add(*std::move(region), *lease);
}

absl::StatusOr<SharedRegionInfo> SharedRegions::Add(std::shared_ptr<SharedRegion> region,
                                                    absl::Duration ttl) {
  const absl::StatusOr<Handle> name = Handle::Random();
  if (!name.ok()) return name.status();
  const std::lock_guard lock(mutex_);
  const absl::Duration now = options_.clock();
  const Entry& entry = entries_[*name] = {std::move(region), ttl, now + ttl};
  return Info(*name, entry, now);
}

SharedRegionInfo SharedRegions::Info(const Handle& name, const Entry& entry,
                                     absl::Duration now) const {
  return {name.ToString(), entry.region->size_bytes(), entry.expires_at - now,
          std::string(entry.region->is_on_device() ? device_->name() : HostMemory().name())};
}

SharedRegions::Entry* SharedRegions::Find(const TenantId& tenant, std::string_view name) {
  const std::optional<Handle> handle = Handle::Parse(name);
  if (!handle.has_value()) return nullptr;
  const auto found = entries_.find(*handle);
  if (found == entries_.end() || found->second.region->tenant_ != tenant ||
      found->second.expires_at <= options_.clock()) {
    return nullptr;
  }
  return &found->second;
}

absl::StatusOr<SharedRegionInfo> SharedRegions::Renew(const TenantId& tenant, std::string_view name,
                                                      absl::Duration ttl) {
  const std::lock_guard lock(mutex_);
  Entry* const entry = Find(tenant, name);
  if (entry == nullptr) return Missing();
  const absl::StatusOr<absl::Duration> lease = ResolveTtl(ttl, entry->ttl);
  if (!lease.ok()) return lease.status();
  const absl::Duration now = options_.clock();
  entry->ttl = *lease;
  entry->expires_at = now + *lease;
  return Info(*Handle::Parse(name), *entry, now);
}

absl::Status SharedRegions::Delete(const TenantId& tenant, std::string_view name) {
  std::shared_ptr<SharedRegion> garbage;  // freed without the mutex
  const std::lock_guard lock(mutex_);
  Entry* const entry = Find(tenant, name);
  if (entry == nullptr) return Missing();
  garbage = std::move(entry->region);
  entries_.erase(*Handle::Parse(name));
  return absl::OkStatus();
}

absl::StatusOr<SharedRegionPtr> SharedRegions::Acquire(const TenantId& tenant,
                                                       std::string_view name) {
  const std::lock_guard lock(mutex_);
  Entry* const entry = Find(tenant, name);
  if (entry == nullptr) return Missing();
  entry->expires_at = options_.clock() + entry->ttl;
  return entry->region;
}

SharedRegionPtr SharedRegions::OfName(std::string_view name) {
  const std::optional<Handle> handle = Handle::Parse(name);
  const std::lock_guard lock(mutex_);
  const auto found = handle.has_value() ? entries_.find(*handle) : entries_.end();
  if (found == entries_.end() || found->second.expires_at <= options_.clock()) return nullptr;
  return found->second.region;
}

void SharedRegions::CollectExpired() {
  std::vector<std::shared_ptr<SharedRegion>> garbage;  // freed without the mutex
  const std::lock_guard lock(mutex_);
  const absl::Duration now = options_.clock();
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const auto current = entry++;
    if (current->second.expires_at > now) continue;
    garbage.push_back(std::move(current->second.region));
    entries_.erase(current);
  }
}

SharedRegions::Stats SharedRegions::stats() const {
  const std::lock_guard lock(mutex_);
  return {options_.capacity_bytes, used_.bytes, used_.regions};
}

}  // namespace theria::server
