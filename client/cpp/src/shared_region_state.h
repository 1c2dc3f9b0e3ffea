#ifndef THERIA_CLIENT_CPP_SRC_SHARED_REGION_STATE_H_
#define THERIA_CLIENT_CPP_SRC_SHARED_REGION_STATE_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/cpp/src/free_list.h"
#include "theria/shared_region.h"
#include "theria/v1/tensor.pb.h"

namespace theria::client {

class SharedRoom;

// What the copies of a SharedRegion share: the mapping, and what is free of it. Thread-safe.
class SharedRegion::State : public std::enable_shared_from_this<State> {
 public:
  // What the offsets of tensors are multiples of, as the contract says.
  static constexpr std::size_t kAlignmentBytes = 256;

  // Maps a file of so many bytes; `descriptor` may be closed after. Errors: INTERNAL for a file of
  // another size; RESOURCE_EXHAUSTED if it cannot be mapped.
  static absl::StatusOr<std::shared_ptr<State>> Map(std::string name, int descriptor,
                                                    std::size_t size_bytes);
  ~State();

  std::byte* data() const { return data_; }
  std::size_t size_bytes() const { return size_bytes_; }
  const std::string& name() const { return name_; }

  // Whether the server has the region, as far as known.
  bool is_shared() const { return is_shared_; }
  void SetLost() { is_shared_ = false; }

  // Errors: RESOURCE_EXHAUSTED.
  absl::StatusOr<std::shared_ptr<SharedRoom>> Take(std::size_t size_bytes);

 private:
  friend class SharedRoom;
  State(std::string name, std::byte* data, std::size_t size_bytes);

  const std::string name_;
  std::byte* const data_;
  const std::size_t size_bytes_;
  std::atomic<bool> is_shared_ = true;
  FreeList free_;
};

// Part of a region that is nobody else's, and free again when this goes away.
class SharedRoom {
 public:
  SharedRoom(std::shared_ptr<SharedRegion::State> region, std::size_t offset_bytes,
             std::size_t size_bytes);
  SharedRoom(const SharedRoom&) = delete;
  SharedRoom& operator=(const SharedRoom&) = delete;
  ~SharedRoom();

  std::byte* data() const { return region_->data() + offset_bytes_; }
  std::size_t offset_bytes() const { return offset_bytes_; }
  std::size_t size_bytes() const { return size_bytes_; }
  v1::SharedMemoryRef reference() const;

  // Leaves the room unused as long as the region lives: the server may still write there.
  void Abandon() { is_abandoned_ = true; }

 private:
  const std::shared_ptr<SharedRegion::State> region_;
  const std::size_t offset_bytes_;
  const std::size_t size_bytes_;
  bool is_abandoned_ = false;
};

// The next multiple of State::kAlignmentBytes. REQUIRES: it can be represented.
std::size_t AlignedBytes(std::size_t size_bytes);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_SHARED_REGION_STATE_H_
