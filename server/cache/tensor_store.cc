#include "server/cache/tensor_store.h"

#include <cassert>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/api/attention.h"
#include "server/cache/handle.h"
#include "server/cache/tensor_spec.h"
#include "server/cache/tensor_store_impl.h"

namespace theria::server {
namespace {

absl::Status Missing() {
  return absl::NotFoundError(
      "no tensor has this handle; it is unknown, expired, evicted or deleted");
}

absl::StatusOr<TensorInfo> FoundOrMissing(std::optional<TensorInfo> info) {
  if (!info.has_value()) return Missing();
  return *std::move(info);
}

// `asked`, or `fallback` if that is zero.
absl::StatusOr<absl::Duration> Resolve(absl::Duration asked, absl::Duration fallback,
                                       absl::Duration maximum, std::string_view field) {
  if (asked == absl::ZeroDuration()) return fallback;
  if (asked < absl::ZeroDuration() || asked > maximum) {
    return InvalidField(
        field, absl::StrCat("is ", absl::ToInt64Milliseconds(asked), ", must be from 0 to ",
                            absl::ToInt64Milliseconds(maximum)));
  }
  return asked;
}

absl::Status NotAToken() { return InvalidField("page_token", "is no token of this list"); }

std::string PageToken(std::uint64_t after) { return absl::StrFormat("%016x", after); }

absl::StatusOr<std::uint64_t> ParsePageToken(std::string_view token) {
  std::uint64_t after = 0;
  if (token.empty()) return after;
  if (!absl::SimpleHexAtoi(absl::string_view(token.data(), token.size()), &after) ||
      PageToken(after) != token) {
    return NotAToken();
  }
  return after;
}

}  // namespace

std::string_view EvictionReasonName(EvictionReason reason) {
  switch (reason) {
    case EvictionReason::kExpired:
      return "expired";
    case EvictionReason::kWatermark:
      return "watermark";
    case EvictionReason::kDeleted:
      return "deleted";
  }
  return "unknown";
}

TensorStore::TensorStore(Memory& memory, Options options)
    : impl_(std::make_unique<Impl>(memory, std::move(options))) {}

TensorStore::~TensorStore() = default;

const TensorStore::Options& TensorStore::options() const { return impl_->options(); }

Memory& TensorStore::memory() const { return impl_->memory(); }

absl::StatusOr<PendingTensor> TensorStore::Create(const TenantId& tenant, TensorSpec spec,
                                                  absl::Duration ttl, absl::Duration pin) {
  const Options& limits = options();
  auto size_bytes = CheckedSizeBytes(spec, limits.max_tensor_bytes);
  if (!size_bytes.ok()) return size_bytes.status();
  auto lease_time = Resolve(ttl, limits.default_ttl, limits.max_ttl, "ttl_ms");
  if (!lease_time.ok()) return lease_time.status();
  auto pin_time = Resolve(pin, absl::ZeroDuration(), limits.max_pin, "pin_ms");
  if (!pin_time.ok()) return pin_time.status();
  auto entry = impl_->Create(tenant, std::move(spec), *size_bytes, *lease_time, *pin_time);
  if (!entry.ok()) return entry.status();
  return PendingTensor(this, *std::move(entry));
}

absl::StatusOr<std::optional<TensorInfo>> TensorStore::FindContent(const TenantId& tenant,
                                                                   const TensorSpec& spec,
                                                                   const Sha256Digest& sha256,
                                                                   absl::Duration ttl,
                                                                   absl::Duration pin) {
  auto lease_time = Resolve(ttl, options().default_ttl, options().max_ttl, "ttl_ms");
  if (!lease_time.ok()) return lease_time.status();
  auto pin_time = Resolve(pin, absl::ZeroDuration(), options().max_pin, "pin_ms");
  if (!pin_time.ok()) return pin_time.status();
  return impl_->FindContent(tenant, spec, sha256, *lease_time, *pin_time);
}

absl::StatusOr<TensorLease> TensorStore::Acquire(const TenantId& tenant, std::string_view handle) {
  absl::StatusOr<Impl::EntryPtr> entry = impl_->Acquire(tenant, Handle::Parse(handle));
  if (!entry.ok()) return entry.status();
  if (*entry == nullptr) return Missing();
  return TensorLease(this, *std::move(entry));
}

absl::StatusOr<TensorInfo> TensorStore::Stat(const TenantId& tenant, std::string_view handle) {
  const std::optional<Handle> parsed = Handle::Parse(handle);
  if (!parsed.has_value()) return Missing();
  return FoundOrMissing(impl_->Stat(tenant, *parsed));
}

absl::StatusOr<TensorInfo> TensorStore::Renew(const TenantId& tenant, std::string_view handle,
                                              absl::Duration ttl) {
  auto lease_time = Resolve(ttl, options().default_ttl, options().max_ttl, "ttl_ms");
  if (!lease_time.ok()) return lease_time.status();
  const std::optional<Handle> parsed = Handle::Parse(handle);
  if (!parsed.has_value()) return Missing();
  return FoundOrMissing(impl_->Renew(tenant, *parsed, *lease_time));
}

absl::StatusOr<TensorInfo> TensorStore::Pin(const TenantId& tenant, std::string_view handle,
                                            absl::Duration pin) {
  auto pin_time = Resolve(pin, options().default_pin, options().max_pin, "pin_ms");
  if (!pin_time.ok()) return pin_time.status();
  const std::optional<Handle> parsed = Handle::Parse(handle);
  if (!parsed.has_value()) return Missing();
  return FoundOrMissing(impl_->Pin(tenant, *parsed, *pin_time));
}

absl::StatusOr<TensorInfo> TensorStore::Unpin(const TenantId& tenant, std::string_view handle) {
  const std::optional<Handle> parsed = Handle::Parse(handle);
  if (!parsed.has_value()) return Missing();
  return FoundOrMissing(impl_->Unpin(tenant, *parsed));
}

absl::Status TensorStore::Delete(const TenantId& tenant, std::string_view handle) {
  const std::optional<Handle> parsed = Handle::Parse(handle);
  if (!parsed.has_value() || !impl_->Delete(tenant, *parsed)) return Missing();
  return absl::OkStatus();
}

absl::StatusOr<TensorStore::Page> TensorStore::List(const TenantId& tenant, int page_size,
                                                    std::string_view page_token) {
  assert(page_size > 0);
  auto after = ParsePageToken(page_token);
  if (!after.ok()) return after.status();
  auto slice = impl_->List(tenant, static_cast<std::size_t>(page_size), *after);
  if (!slice.has_value()) return NotAToken();
  Page page;
  page.tensors = std::move(slice->tensors);
  if (slice->next.has_value()) page.next_page_token = PageToken(*slice->next);
  return page;
}

std::size_t TensorStore::Relieve(const TenantId& tenant, std::size_t size_bytes) {
  return impl_->Relieve(tenant, size_bytes);
}

void TensorStore::CollectExpired() { impl_->CollectExpired(); }

TensorStoreStats TensorStore::stats() const { return impl_->stats(); }

void TensorStore::SetQuota(const TenantId& tenant, std::size_t quota_bytes) {
  impl_->SetQuota(tenant, quota_bytes);
}

TensorStore::TenantStats TensorStore::tenant_stats(const TenantId& tenant) const {
  return impl_->tenant_stats(tenant);
}

}  // namespace theria::server
