#ifndef THERIA_CLIENT_CPP_SRC_SHARED_REGIONS_H_
#define THERIA_CLIENT_CPP_SRC_SHARED_REGIONS_H_

#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/cpp/src/shared_region_state.h"
#include "theria/shared_region.h"
#include "theria/tensor.h"
#include "theria/v1/tensor.pb.h"

namespace theria::client {

// The regions that one client shares with its server. Thread-safe.
class SharedRegions {
 public:
  void Add(const SharedRegion& region);

  // Those that somebody refers to and that the server has, as far as known.
  std::vector<std::shared_ptr<SharedRegion::State>> All() const;
  bool Has(const SharedRegion& region) const;

  // The part of one of these regions that the elements of `tensor` span; none if they are elsewhere
  // or begin where no reference can.
  std::optional<v1::SharedMemoryRef> PartOf(const Tensor& tensor) const;

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::weak_ptr<SharedRegion::State>> regions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_SHARED_REGIONS_H_
