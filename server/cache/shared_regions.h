#ifndef THERIA_SERVER_CACHE_SHARED_REGIONS_H_
#define THERIA_SERVER_CACHE_SHARED_REGIONS_H_

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/api/memory.h"
#include "server/cache/handle.h"
#include "server/cache/memory_file.h"
#include "server/cache/tensor_store.h"

// Regions of memory that clients on this host share with the server: of the host's memory, which
// the server makes, or of the GPU's, which the client made and lends. Each belongs to one tenant,
// has an unguessable name, and goes when its lease ends, which every use begins anew, or when it is
// deleted; who holds it then keeps it in place until he lets go. Bytes count until that moment.
//
// Thread-safe. The device's memory must outlive this, and this every SharedRegion.

namespace theria::server {

class SharedRegions;

class SharedRegion {
 public:
  ~SharedRegion();
  SharedRegion(const SharedRegion&) = delete;
  SharedRegion& operator=(const SharedRegion&) = delete;

  char* data() const { return static_cast<char*>(file_ ? file_->data() : lent_.data()); }
  std::size_t size_bytes() const { return size_bytes_; }
  // In the backend's own memory, which is not the host's.
  bool is_on_device() const { return file_ == nullptr; }
  int descriptor() const { return file_ ? file_->descriptor() : -1; }  // of a host's region

 private:
  friend class SharedRegions;
  SharedRegion(SharedRegions& regions, TenantId tenant, std::size_t size_bytes,
               std::size_t host_bytes)
      : regions_(regions),
        tenant_(std::move(tenant)),
        size_bytes_(size_bytes),
        host_bytes_(host_bytes) {}

  SharedRegions& regions_;
  const TenantId tenant_;
  const std::size_t size_bytes_;
  const std::size_t host_bytes_;  // of them in the host's memory
  std::unique_ptr<MemoryFile> file_;
  Buffer lent_;
};

using SharedRegionPtr = std::shared_ptr<const SharedRegion>;

// As theria.v1.RegionInfo.
struct SharedRegionInfo {
  std::string name;
  std::size_t size_bytes = 0;
  absl::Duration expires_in;
  std::string device;
};

class SharedRegions {
 public:
  struct Options {
    std::size_t capacity_bytes = std::size_t{1} << 30;  // of the host's memory
    std::size_t max_regions = 1024;                     // each holds a file descriptor
    // No tenant holds more of either than what he leaves free, times this; 0: all of it.
    double max_share_of_free = 0.0;
    absl::Duration default_ttl = absl::Minutes(10);
    absl::Duration max_ttl = absl::Hours(24);
    std::function<absl::Duration()> clock;  // monotonic; a test injects its own
  };

  // `device`: where lent memory is; null, or the host's: none can be lent.
  explicit SharedRegions(Options options, Memory* device = nullptr);
  ~SharedRegions();
  SharedRegions(const SharedRegions&) = delete;
  SharedRegions& operator=(const SharedRegions&) = delete;

  // A region of zeros of the host's memory; `ttl` zero: the default.
  // Errors: INVALID_ARGUMENT (with FieldOf "size_bytes", "ttl_ms"); RESOURCE_EXHAUSTED.
  absl::StatusOr<SharedRegionInfo> Create(const TenantId& tenant, std::size_t size_bytes,
                                          absl::Duration ttl);
  // Memory of the device that the client lends by its `ipc_handle`. Errors: also UNIMPLEMENTED, and
  // INVALID_ARGUMENT with FieldOf "cuda_ipc_handle".
  absl::StatusOr<SharedRegionInfo> Import(const TenantId& tenant, std::string_view ipc_handle,
                                          std::size_t size_bytes, absl::Duration ttl);

  // Each below. Errors: NOT_FOUND if the tenant has no such region.
  absl::StatusOr<SharedRegionInfo> Renew(const TenantId& tenant, std::string_view name,
                                         absl::Duration ttl);
  absl::Status Delete(const TenantId& tenant, std::string_view name);
  absl::StatusOr<SharedRegionPtr> Acquire(const TenantId& tenant, std::string_view name);

  // Whoever knows the name of a region of the host's memory may map it; null if there is none.
  SharedRegionPtr OfName(std::string_view name);

  // Drops what has expired now. Create and Import do so first, to have its room; a server calls
  // this once a second, so that idle regions give their memory back.
  void CollectExpired();

  struct Stats {
    std::size_t capacity_bytes = 0;
    std::size_t used_bytes = 0;  // of the host's memory, deleted regions in use among them
    std::size_t regions = 0;     // likewise, lent ones too
  };
  Stats stats() const;

 private:
  friend class SharedRegion;
  struct Entry {
    std::shared_ptr<SharedRegion> region;
    absl::Duration ttl;
    absl::Duration expires_at;
  };
  struct Usage {
    std::size_t bytes = 0;
    std::size_t regions = 0;
  };
  using Entries = absl::flat_hash_map<Handle, Entry, Handle::Hash>;

  absl::StatusOr<absl::Duration> ResolveTtl(absl::Duration asked, absl::Duration fallback) const;
  // Counts the region, until its destruction.
  absl::StatusOr<std::shared_ptr<SharedRegion>> Claim(const TenantId& tenant,
                                                      std::size_t size_bytes,
                                                      std::size_t host_bytes);
  absl::StatusOr<SharedRegionInfo> Add(std::shared_ptr<SharedRegion> region, absl::Duration ttl);
  void Release(const SharedRegion& region);
  SharedRegionInfo Info(const Handle& name, const Entry& entry, absl::Duration now) const;
  // With the mutex.
  Entry* Find(const TenantId& tenant, std::string_view name);

  const Options options_;
  Memory* const device_;
  mutable std::mutex mutex_;
  Entries entries_;
  Usage used_;
  std::map<TenantId, Usage> used_by_tenant_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_SHARED_REGIONS_H_
