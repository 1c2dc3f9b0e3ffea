#include "server/cache/tensor_store_impl.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "server/cache/monotonic_clock.h"

namespace theria::server {
namespace {

TensorStore::Options WithDefaults(TensorStore::Options options) {
  if (options.spill_memory == nullptr) options.spill_capacity_bytes = 0;
  if (options.spill_capacity_bytes == 0) options.spill_memory = nullptr;
  if (options.tenant_quota_bytes == 0) {
    options.tenant_quota_bytes = options.capacity_bytes + options.spill_capacity_bytes;
  }
  if (options.max_tensor_bytes == 0) options.max_tensor_bytes = options.capacity_bytes;
  options.max_tensor_bytes = std::min(options.max_tensor_bytes, options.capacity_bytes);
  options.default_ttl = std::min(options.default_ttl, options.max_ttl);
  options.default_pin = std::min(options.default_pin, options.max_pin);
  if (!options.clock) options.clock = MonotonicNow;
  return options;
}

std::size_t Fraction(std::size_t bytes, double fraction) {
  return std::min(bytes, static_cast<std::size_t>(static_cast<double>(bytes) * fraction));
}

}  // namespace

TensorStore::Impl::Impl(Memory& memory, Options options)
    : memory_(memory),
      options_(WithDefaults(std::move(options))),
      high_bytes_(Fraction(options_.capacity_bytes, options_.high_watermark)),
      low_bytes_(Fraction(options_.capacity_bytes, options_.low_watermark)),
      capacity_(options_.capacity_bytes),
      spill_capacity_(options_.spill_capacity_bytes) {}

TensorStore::Impl::Section::Section(Impl& impl) : lock_(impl.mutex_), now_(impl.options_.clock()) {
  impl.RunTimeline(*this);
}

absl::StatusOr<TensorStore::Impl::EntryPtr> TensorStore::Impl::Create(const TenantId& tenant_id,
                                                                      TensorSpec spec,
                                                                      std::size_t size_bytes,
                                                                      absl::Duration ttl,
                                                                      absl::Duration pin) {
  absl::StatusOr<Handle> handle = Handle::Random();
  if (!handle.ok()) return handle.status();
  auto entry = std::make_shared<Entry>();
  entry->handle = *handle;
  entry->spec = std::move(spec);
  entry->size_bytes = size_bytes;
  entry->ttl = ttl;
  entry->pin = pin;
  {
    const Section section(*this);
    entry->tenant = &TenantOf(tenant_id);
  }
  if (absl::Status room = ClaimRoom(*entry->tenant, size_bytes, Claim::kNewTensor); !room.ok()) {
    return room;
  }
  absl::StatusOr<Buffer> buffer = Allocate(*entry->tenant, size_bytes);
  if (!buffer.ok()) {
    Abort(entry);
    return buffer.status();
  }
  entry->buffer = *std::move(buffer);
  return entry;
}

TensorInfo TensorStore::Impl::Commit(EntryPtr entry, const std::optional<Sha256Digest>& sha256) {
  Section section(*this);
  Tenant& tenant = *entry->tenant;
  pending_bytes_ -= entry->size_bytes;
  if (sha256.has_value()) {
    const auto [it, inserted] = tenant.by_content.try_emplace({*sha256, entry->spec}, entry.get());
    if (!inserted) {
      Entry& existing = *it->second;
      Extend(existing, section.now(), entry->ttl, entry->pin);
      entry->state = Entry::State::kGone;
      ReleaseIfUnused(*entry);
      section.garbage_.push_back(std::move(entry));
      return Describe(existing, section.now());
    }
    entry->sha256 = sha256;
  }
  entry->state = Entry::State::kReadable;
  entry->sequence = tenant.next_sequence++;
  entry->expires_at = section.now() + entry->ttl;
  entry->next_event = entry->expires_at;
  timeline_.emplace(entry->next_event, entry.get());
  tenant.by_age.emplace_hint(tenant.by_age.end(), entry->sequence, entry.get());
  tenant.evictable.Append(*entry);
  if (entry->pin > absl::ZeroDuration()) SetPin(*entry, section.now() + entry->pin);
  Entry& committed = *entry;
  entries_.emplace(committed.handle, std::move(entry));
  return Describe(committed, section.now());
}

void TensorStore::Impl::Abort(const EntryPtr& entry) {
  const std::lock_guard lock(mutex_);
  entry->state = Entry::State::kGone;
  pending_bytes_ -= entry->size_bytes;
  ReleaseIfUnused(*entry);
}

std::optional<TensorInfo> TensorStore::Impl::FindContent(const TenantId& tenant,
                                                         const TensorSpec& spec,
                                                         const Sha256Digest& sha256,
                                                         absl::Duration ttl, absl::Duration pin) {
  Section section(*this);
  const auto& by_content = TenantOf(tenant).by_content;
  const auto it = by_content.find({sha256, spec});
  if (it == by_content.end()) return std::nullopt;
  Extend(*it->second, section.now(), ttl, pin);
  return Describe(*it->second, section.now());
}

absl::StatusOr<TensorStore::Impl::EntryPtr> TensorStore::Impl::Acquire(
    const TenantId& tenant, const std::optional<Handle>& handle) {
  EntryPtr entry;
  {
    Section section(*this);
    Entry* const found = handle.has_value() ? Find(tenant, *handle) : nullptr;
    if (found == nullptr) {
      ++misses_;
      return nullptr;
    }
    entry = entries_.find(*handle)->second;
    ++hits_;
    ++entry->readers;
    IdleList(*entry).Remove(*entry);
    moved_.wait(section.lock_, [&] { return !(entry->is_spilled && entry->is_moving); });
    if (!entry->is_spilled) return entry;
    entry->is_moving = true;
  }
  if (absl::Status restored = Restore(*entry); !restored.ok()) {
    Release(entry);
    return restored;
  }
  return entry;
}

void TensorStore::Impl::Release(const EntryPtr& entry) {
  const std::lock_guard lock(mutex_);
  --entry->readers;
  ReleaseIfUnused(*entry);
  AppendIfIdle(*entry);
}

std::optional<TensorInfo> TensorStore::Impl::Stat(const TenantId& tenant, const Handle& handle) {
  Section section(*this);
  const Entry* entry = Find(tenant, handle);
  if (entry == nullptr) return std::nullopt;
  return Describe(*entry, section.now());
}

std::optional<TensorInfo> TensorStore::Impl::Renew(const TenantId& tenant, const Handle& handle,
                                                   absl::Duration ttl) {
  Section section(*this);
  Entry* entry = Find(tenant, handle);
  if (entry == nullptr) return std::nullopt;
  entry->expires_at = section.now() + ttl;
  Reschedule(*entry);
  Touch(*entry);
  return Describe(*entry, section.now());
}

std::optional<TensorInfo> TensorStore::Impl::Pin(const TenantId& tenant, const Handle& handle,
                                                 absl::Duration pin) {
  Section section(*this);
  Entry* entry = Find(tenant, handle);
  if (entry == nullptr) return std::nullopt;
  SetPin(*entry, section.now() + pin);
  return Describe(*entry, section.now());
}

std::optional<TensorInfo> TensorStore::Impl::Unpin(const TenantId& tenant, const Handle& handle) {
  Section section(*this);
  Entry* entry = Find(tenant, handle);
  if (entry == nullptr) return std::nullopt;
  EndPin(*entry);
  return Describe(*entry, section.now());
}

bool TensorStore::Impl::Delete(const TenantId& tenant, const Handle& handle) {
  Section section(*this);
  Entry* entry = Find(tenant, handle);
  if (entry == nullptr) return false;
  Remove(section, *entry, EvictionReason::kDeleted);
  return true;
}

TensorInfo TensorStore::Impl::Info(const Entry& entry) {
  Section section(*this);
  return Describe(entry, section.now());
}

std::optional<TensorStore::Impl::Slice> TensorStore::Impl::List(const TenantId& tenant_id,
                                                                std::size_t page_size,
                                                                std::uint64_t after) {
  Section section(*this);
  const Tenant& tenant = TenantOf(tenant_id);
  if (after >= tenant.next_sequence) return std::nullopt;
  Slice slice;
  auto it = tenant.by_age.upper_bound(after);
  for (; it != tenant.by_age.end() && slice.tensors.size() < page_size; ++it) {
    slice.tensors.push_back(Describe(*it->second, section.now()));
    after = it->first;
  }
  if (it != tenant.by_age.end()) slice.next = after;
  return slice;
}

void TensorStore::Impl::CollectExpired() { const Section section(*this); }

TensorStoreStats TensorStore::Impl::stats() {
  const Section section(*this);
  TensorStoreStats stats;
  stats.capacity_bytes = capacity_.limit_bytes();
  stats.used_bytes = capacity_.used_bytes();
  stats.pending_bytes = pending_bytes_;
  stats.pinned_bytes = pinned_bytes_;
  stats.entries = entries_.size();
  stats.hits = hits_;
  stats.misses = misses_;
  stats.evictions = evictions_;
  stats.spill_capacity_bytes = spill_capacity_.limit_bytes();
  stats.spilled_bytes = spill_capacity_.used_bytes();
  stats.spills = spills_;
  stats.spill_traffic_bytes = spill_traffic_bytes_;
  stats.restores = restores_;
  stats.restore_traffic_bytes = restore_traffic_bytes_;
  return stats;
}

void TensorStore::Impl::SetQuota(const TenantId& tenant, std::size_t quota_bytes) {
  const Section section(*this);
  const std::size_t all_bytes = capacity_.limit_bytes() + spill_capacity_.limit_bytes();
  TenantOf(tenant).quota.SetLimit(quota_bytes == 0 ? options_.tenant_quota_bytes
                                                   : std::min(quota_bytes, all_bytes));
}

TensorStore::TenantStats TensorStore::Impl::tenant_stats(const TenantId& tenant_id) {
  const Section section(*this);
  const Tenant& tenant = TenantOf(tenant_id);
  return {tenant.quota.limit_bytes(), tenant.quota.used_bytes(), tenant.by_age.size()};
}

internal::Tenant& TensorStore::Impl::TenantOf(const TenantId& id) {
  std::unique_ptr<Tenant>& tenant = tenants_[id];
  if (tenant == nullptr) tenant = std::make_unique<Tenant>(id, options_.tenant_quota_bytes);
  return *tenant;
}

internal::Entry* TensorStore::Impl::Find(const TenantId& tenant, const Handle& handle) {
  const auto it = entries_.find(handle);
  if (it == entries_.end() || it->second->tenant->id != tenant) return nullptr;
  return it->second.get();
}

void TensorStore::Impl::ReleaseIfUnused(Entry& entry) {
  if (entry.state != Entry::State::kGone || entry.readers > 0 || entry.is_moving) return;
  (entry.is_spilled ? spill_capacity_ : capacity_).Release(entry.size_bytes);
  entry.tenant->quota.Release(entry.size_bytes);
}

void TensorStore::Impl::Remove(Section& section, Entry& entry, EvictionReason reason) {
  Tenant& tenant = *entry.tenant;
  if (entry.pinned_until.has_value()) {
    pinned_bytes_ -= entry.size_bytes;
    entry.pinned_until.reset();
  }
  timeline_.erase({entry.next_event, &entry});
  IdleList(entry).Remove(entry);
  tenant.by_age.erase(entry.sequence);
  if (entry.sha256.has_value()) tenant.by_content.erase({*entry.sha256, entry.spec});
  entry.state = Entry::State::kGone;
  ReleaseIfUnused(entry);
  ++evictions_[static_cast<std::size_t>(reason)];
  const auto it = entries_.find(entry.handle);
  section.garbage_.push_back(std::move(it->second));
  entries_.erase(it);
}

void TensorStore::Impl::RunTimeline(Section& section) {
  while (!timeline_.empty() && timeline_.begin()->first <= section.now()) {
    Entry& entry = *timeline_.begin()->second;
    if (entry.pinned_until.has_value()) {
      EndPin(entry);
    } else {
      Remove(section, entry, EvictionReason::kExpired);
    }
  }
}

void TensorStore::Impl::Reschedule(Entry& entry) {
  auto node = timeline_.extract({entry.next_event, &entry});
  entry.next_event = entry.pinned_until.value_or(entry.expires_at);
  node.value().first = entry.next_event;
  timeline_.insert(std::move(node));
}

void TensorStore::Impl::Extend(Entry& entry, absl::Duration now, absl::Duration ttl,
                               absl::Duration pin) {
  entry.expires_at = std::max(entry.expires_at, now + ttl);
  Reschedule(entry);
  Touch(entry);
  if (pin > absl::ZeroDuration()) SetPin(entry, now + pin);
}

void TensorStore::Impl::SetPin(Entry& entry, absl::Duration pin_end) {
  if (!entry.pinned_until.has_value()) {
    pinned_bytes_ += entry.size_bytes;
    IdleList(entry).Remove(entry);
  }
  entry.pinned_until = std::max(entry.pinned_until.value_or(pin_end), pin_end);
  Reschedule(entry);
}

void TensorStore::Impl::EndPin(Entry& entry) {
  if (!entry.pinned_until.has_value()) return;
  pinned_bytes_ -= entry.size_bytes;
  entry.pinned_until.reset();
  Reschedule(entry);
  AppendIfIdle(entry);
}

void TensorStore::Impl::Touch(Entry& entry) {
  if (!entry.evictable) return;
  IdleList(entry).Remove(entry);
  IdleList(entry).Append(entry);
}

TensorInfo TensorStore::Impl::Describe(const Entry& entry, absl::Duration now) const {
  TensorInfo info;
  info.handle = entry.handle.ToString();
  info.spec = entry.spec;
  if (entry.state == Entry::State::kReadable) {
    info.expires_in = std::max(entry.expires_at - now, absl::ZeroDuration());
    if (entry.pinned_until.has_value()) info.pinned_for = *entry.pinned_until - now;
  }
  info.sha256 = entry.sha256;
  info.device = std::string((entry.is_spilled ? *options_.spill_memory : memory_).name());
  info.readers = entry.readers;
  return info;
}

}  // namespace theria::server
