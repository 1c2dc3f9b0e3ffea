#ifndef THERIA_TESTS_FUZZ_KNOWN_H_
#define THERIA_TESTS_FUZZ_KNOWN_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "google/protobuf/message.h"
#include "kernels/api/memory.h"
#include "server/cache/shared_regions.h"
#include "server/cache/tensor_store.h"
#include "server/rpc/shared_memory_codec.h"

// What an input of a fuzz target may refer to: tensors that are resident and memory that is shared.
// Their names are random, so that no search would find one; an input says "a" to "d" instead:
//
//        tensor                      region
//     a  FLOAT32 [1, 2, 3, 4]        8192 bytes of the host's
//     b  BOOL [3, 3]                 5000 bytes, lent by the device if `memory` is one
//     c  another tenant's            another tenant's
//     d  deleted                     deleted
//
// Time stands still: none of them expires. Every byte of the regions is kFill, none of the
// tensors'.

namespace theria::server {

class Known {
 public:
  static constexpr char kFill = 0x3F;

  // `memory`: the store's. It must outlive this.
  explicit Known(Memory& memory);

  TensorStore& store() { return store_; }
  SharedRegions& regions() { return regions_; }

  // Puts the names in place of "a" to "d", wherever `message` names a tensor or a region.
  void Name(google::protobuf::Message& message) const;
  const std::string& region_name(std::size_t index) const { return region_names_.at(index % 4); }

  // Whether it is the handle of one of the tensors above.
  bool HasTensor(const std::string& handle) const;
  // The region of one of these names that the tenant has; null: he has none.
  SharedRegionPtr RegionOf(const std::string& name);

  // Whether all bytes of a and b are kFill, `part` (of neither, if it has no region) left aside.
  bool IsUntouchedBut(const SharedPart& part) const;
  // Makes them so again.
  void Refill();

  // What is there.
  std::string Read(const SharedPart& part) const;
  std::string Read(const TensorLease& lease) const;

 private:
  std::string AddTensor(const TenantId& tenant, DType dtype, std::vector<std::int64_t> shape);
  std::string AddRegion(const TenantId& tenant, std::size_t size_bytes);

  TensorStore store_;
  Buffer lent_;
  SharedRegions regions_;
  std::array<std::string, 4> tensor_names_;
  std::array<std::string, 4> region_names_;
  std::array<SharedRegionPtr, 2> shared_;  // a and b
};

}  // namespace theria::server

#endif  // THERIA_TESTS_FUZZ_KNOWN_H_
