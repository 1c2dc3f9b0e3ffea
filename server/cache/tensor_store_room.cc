// How the store makes room: what it gives up, spills to the other memory, and brings back.

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/cache/exhausted.h"
#include "server/cache/tensor_store_impl.h"

namespace theria::server {

absl::Status TensorStore::Impl::CheckRoom(const Tenant& tenant, std::size_t size_bytes,
                                          Claim claim) const {
  if (claim == Claim::kNewTensor) {
    const std::size_t evictable_bytes = tenant.evictable.size_bytes() + tenant.spilled.size_bytes();
    const ByteBudget& quota = tenant.quota;
    if (size_bytes > quota.limit_bytes()) {
      return ExhaustedForGood(absl::StrCat("a tensor of ", size_bytes,
                                           " bytes is larger than the tenant's quota of ",
                                           quota.limit_bytes(), " bytes"));
    }
    if (!quota.FitsWithin(quota.limit_bytes(), size_bytes, evictable_bytes)) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "no room for ", size_bytes, " bytes: of the tenant's quota of ", quota.limit_bytes(),
          " bytes, ", quota.used_bytes() - evictable_bytes, " cannot be evicted now"));
    }
  }
  if (!capacity_.FitsWithin(capacity_.limit_bytes(), size_bytes, tenant.evictable.size_bytes())) {
    // No figures: they would tell what the other tenants hold.
    return absl::ResourceExhaustedError(
        absl::StrCat("no room for ", size_bytes,
                     " bytes: the store is full, and the tenant's own tensors cannot make way"));
  }
  return absl::OkStatus();
}

absl::Status TensorStore::Impl::MakeRoom(Section& section, Tenant& tenant, std::size_t size_bytes,
                                         Claim claim, std::vector<EntryPtr>& victims) {
  absl::Status room = CheckRoom(tenant, size_bytes, claim);
  while (!room.ok()) {
    if (spilling_bytes_ == 0 || IsExhaustedForGood(room)) return room;
    moved_.wait(section.lock_);
    room = CheckRoom(tenant, size_bytes, claim);
  }
  internal::LruList& evictable = tenant.evictable;
  while (claim == Claim::kNewTensor && !tenant.quota.Fits(size_bytes)) {
    Entry* const oldest = tenant.spilled.oldest();
    Remove(section, oldest != nullptr ? *oldest : *evictable.oldest(), EvictionReason::kWatermark);
  }
  const auto fits = [&](std::size_t mark_bytes, std::size_t given_bytes) {
    return capacity_.FitsWithin(mark_bytes, size_bytes, given_bytes + spilling_bytes_);
  };
  std::size_t target_bytes = high_bytes_;
  if (!fits(high_bytes_, 0)) {
    // The lowest mark that giving up this tenant's tensors can reach: nothing is lost in vain.
    for (const std::size_t mark_bytes : {low_bytes_, high_bytes_, capacity_.limit_bytes()}) {
      target_bytes = mark_bytes;
      if (fits(mark_bytes, evictable.size_bytes())) break;
    }
  }
  while (evictable.oldest() != nullptr && !fits(target_bytes, 0)) {
    Entry& oldest = *evictable.oldest();
    // Where tensors can be spilled, none is dropped for a mark alone.
    const bool may_drop = options_.spill_memory == nullptr || !fits(capacity_.limit_bytes(), 0);
    if (BeginSpill(section, oldest, may_drop, victims)) continue;
    if (!may_drop) break;
    Remove(section, oldest, EvictionReason::kWatermark);
  }
  // What others are spilling is about to be free.
  while (victims.empty() && !capacity_.Fits(size_bytes) && spilling_bytes_ > 0) {
    moved_.wait(section.lock_);
  }
  return absl::OkStatus();
}

absl::Status TensorStore::Impl::ClaimRoom(Tenant& tenant, std::size_t size_bytes, Claim claim) {
  while (true) {
    bool is_claimed = false;
    std::vector<EntryPtr> victims;
    {
      Section section(*this);
      absl::Status room = MakeRoom(section, tenant, size_bytes, claim, victims);
      if (!room.ok()) return room;
      const bool is_new = claim == Claim::kNewTensor;
      if (capacity_.Fits(size_bytes) && (!is_new || tenant.quota.Fits(size_bytes))) {
        capacity_.Reserve(size_bytes);
        if (is_new) {
          tenant.quota.Reserve(size_bytes);
          pending_bytes_ += size_bytes;
        }
        is_claimed = true;
      }
    }
    for (const EntryPtr& victim : victims) Spill(victim, true);
    if (is_claimed) return absl::OkStatus();
  }
}

absl::StatusOr<Buffer> TensorStore::Impl::Allocate(Tenant& tenant, std::size_t size_bytes) {
  absl::StatusOr<Buffer> buffer = memory_.Allocate(size_bytes);
  while (absl::IsResourceExhausted(buffer.status()) && Relieve(tenant.id, size_bytes) > 0) {
    buffer = memory_.Allocate(size_bytes);
  }
  return buffer;
}

bool TensorStore::Impl::BeginSpill(Section& section, Entry& entry, bool may_drop,
                                   std::vector<EntryPtr>& victims) {
  internal::LruList& spilled = entry.tenant->spilled;
  const std::size_t limit_bytes = spill_capacity_.limit_bytes();
  const std::size_t given_bytes = may_drop ? spilled.size_bytes() : 0;
  if (!spill_capacity_.FitsWithin(limit_bytes, entry.size_bytes, given_bytes)) return false;
  while (!spill_capacity_.Fits(entry.size_bytes)) {
    Remove(section, *spilled.oldest(), EvictionReason::kWatermark);
  }
  spill_capacity_.Reserve(entry.size_bytes);
  IdleList(entry).Remove(entry);
  entry.is_moving = true;
  spilling_bytes_ += entry.size_bytes;
  victims.push_back(entries_.find(entry.handle)->second);
  return true;
}

std::size_t TensorStore::Impl::Spill(const EntryPtr& entry, bool may_drop) {
  absl::StatusOr<Buffer> copy = options_.spill_memory->Allocate(entry->size_bytes);
  absl::Status copied = copy.status();
  if (copied.ok()) {
    copied = memory_.CopyToHost(copy->data(), entry->buffer.data(), entry->size_bytes);
  }
  bool is_moved = false;
  if (copied.ok()) {
    const std::lock_guard lock(mutex_);
    is_moved = IsIdle(*entry);
    if (is_moved) {
      std::swap(entry->buffer, *copy);
      entry->is_spilled = true;
    }
  }
  copy = Buffer();  // what it holds now is free before anybody may count on it

  Section section(*this);
  entry->is_moving = false;
  spilling_bytes_ -= entry->size_bytes;
  moved_.notify_all();
  (is_moved ? capacity_ : spill_capacity_).Release(entry->size_bytes);
  ReleaseIfUnused(*entry);
  AppendIfIdle(*entry);
  if (is_moved) {
    ++spills_;
    spill_traffic_bytes_ += entry->size_bytes;
  } else if (!copied.ok() && may_drop && IsIdle(*entry)) {
    Remove(section, *entry, EvictionReason::kWatermark);
  }
  const bool is_free = is_moved || (entry->state == Entry::State::kGone && entry->readers == 0);
  return is_free ? entry->size_bytes : 0;
}

absl::Status TensorStore::Impl::Restore(Entry& entry) {
  absl::Status status = ClaimRoom(*entry.tenant, entry.size_bytes, Claim::kSpilledTensor);
  const bool is_claimed = status.ok();
  Buffer copy;
  if (is_claimed) {
    absl::StatusOr<Buffer> buffer = Allocate(*entry.tenant, entry.size_bytes);
    status = buffer.status();
    if (status.ok()) {
      copy = *std::move(buffer);
      status = memory_.CopyFromHost(copy.data(), entry.buffer.data(), entry.size_bytes);
    }
  }
  const std::lock_guard lock(mutex_);
  entry.is_moving = false;
  moved_.notify_all();
  if (!status.ok()) {
    if (is_claimed) capacity_.Release(entry.size_bytes);
    return status;
  }
  std::swap(entry.buffer, copy);
  entry.is_spilled = false;
  spill_capacity_.Release(entry.size_bytes);
  ++restores_;
  restore_traffic_bytes_ += entry.size_bytes;
  return absl::OkStatus();
}

std::size_t TensorStore::Impl::Relieve(const TenantId& tenant_id, std::size_t size_bytes) {
  std::size_t freed_bytes = 0;
  std::vector<EntryPtr> victims;
  {
    Section section(*this);
    std::size_t planned_bytes = 0;
    Tenant& own = TenantOf(tenant_id);
    while (planned_bytes < size_bytes && own.evictable.oldest() != nullptr) {
      Entry& oldest = *own.evictable.oldest();
      planned_bytes += oldest.size_bytes;
      if (BeginSpill(section, oldest, true, victims)) continue;
      freed_bytes += oldest.size_bytes;
      Remove(section, oldest, EvictionReason::kWatermark);
    }
    // Others lose nothing by it: their tensors are spilled only.
    for (const auto& [id, tenant] : tenants_) {
      while (planned_bytes < size_bytes && tenant->evictable.oldest() != nullptr) {
        Entry& oldest = *tenant->evictable.oldest();
        if (!BeginSpill(section, oldest, false, victims)) break;
        planned_bytes += oldest.size_bytes;
      }
    }
    if (planned_bytes == 0 && spilling_bytes_ > 0) {  // by somebody else, for everybody
      freed_bytes = spilling_bytes_;
      moved_.wait(section.lock_);
    }
  }
  for (const EntryPtr& victim : victims) {
    freed_bytes += Spill(victim, victim->tenant->id == tenant_id);
  }
  return freed_bytes;
}

}  // namespace theria::server
