#include "theria/shared_region.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "client/cpp/src/message_codec.h"
#include "client/cpp/src/shared_region_state.h"
#include "client/cpp/src/text.h"

namespace theria::client {
namespace {

absl::Status NoRoom(const std::string& what) {
  return absl::ResourceExhaustedError(
      Text("the shared region has no room in one piece for ", what));
}

}  // namespace

std::size_t SharedRegion::size_bytes() const { return state_->size_bytes(); }
bool SharedRegion::is_shared() const { return state_->is_shared(); }

absl::StatusOr<Tensor> SharedRegion::NewTensor(DType dtype, const Shape& shape) const {
  const std::optional<std::size_t> size_bytes = CheckedSizeBytes(dtype, shape);
  if (!size_bytes.has_value()) return NoRoom(Text("a tensor of shape ", ShapeString(shape)));
  const absl::StatusOr<std::shared_ptr<SharedRoom>> room = state_->Take(*size_bytes);
  if (!room.ok()) return room.status();
  return Tensor::AdoptWritable(*room, dtype, (*room)->data(), shape);
}

absl::StatusOr<Tensor> SharedRegion::Copy(const Tensor& tensor) const {
  absl::StatusOr<Tensor> copy = NewTensor(tensor.dtype(), tensor.shape());
  if (copy.ok()) copy->CopyFrom(tensor);
  return copy;
}

absl::StatusOr<std::shared_ptr<SharedRegion::State>> SharedRegion::State::Map(
    std::string name, int descriptor, std::size_t size_bytes) {
  struct stat file {};
  // Beyond the end of a file there is SIGBUS.
  if (fstat(descriptor, &file) != 0 || static_cast<std::size_t>(file.st_size) != size_bytes) {
    return absl::InternalError("the server gave shared memory of another size");
  }
  void* const data =
      mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, descriptor, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        Text("cannot map ", size_bytes, " bytes of shared memory: ", std::strerror(errno)));
  }
  return std::shared_ptr<State>(
      new State(std::move(name), static_cast<std::byte*>(data), size_bytes));
}

SharedRegion::State::State(std::string name, std::byte* data, std::size_t size_bytes)
    : name_(std::move(name)), data_(data), size_bytes_(size_bytes), free_(size_bytes) {}

SharedRegion::State::~State() { munmap(data_, size_bytes_); }

absl::StatusOr<std::shared_ptr<SharedRoom>> SharedRegion::State::Take(std::size_t size_bytes) {
  if (size_bytes > size_bytes_) return NoRoom(Text(size_bytes, " bytes"));
  const std::size_t taken_bytes = AlignedBytes(size_bytes);
  const std::optional<std::size_t> offset_bytes = free_.Take(taken_bytes);
  if (!offset_bytes.has_value()) return NoRoom(Text(size_bytes, " bytes"));
  return std::make_shared<SharedRoom>(shared_from_this(), *offset_bytes, taken_bytes);
}

SharedRoom::SharedRoom(std::shared_ptr<SharedRegion::State> region, std::size_t offset_bytes,
                       std::size_t size_bytes)
    : region_(std::move(region)), offset_bytes_(offset_bytes), size_bytes_(size_bytes) {}

SharedRoom::~SharedRoom() {
  if (!is_abandoned_) region_->free_.Give(offset_bytes_, size_bytes_);
}

v1::SharedMemoryRef SharedRoom::reference() const {
  v1::SharedMemoryRef reference;
  reference.set_region(region_->name());
  reference.set_offset_bytes(offset_bytes_);
  reference.set_size_bytes(size_bytes_);
  return reference;
}

std::size_t AlignedBytes(std::size_t size_bytes) {
  constexpr std::size_t kMask = SharedRegion::State::kAlignmentBytes - 1;
  return (size_bytes + kMask) & ~kMask;
}

}  // namespace theria::client
