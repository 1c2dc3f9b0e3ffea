#ifndef THERIA_KERNELS_API_MEMORY_H_
#define THERIA_KERNELS_API_MEMORY_H_

#include <cstddef>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

// Where tensors live, seen from code that does not care which: the tensor store and the engine
// allocate and copy through this interface alone; host memory and each device implement it.
// All functions are thread-safe.

namespace theria {

class Memory;

// A block of one Memory, freed on destruction. Movable. The Memory must outlive it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Memory* memory, void* data, std::size_t size_bytes)
      : memory_(memory), data_(data), size_bytes_(size_bytes) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer();

  void* data() const { return data_; }  // 64-byte aligned; dereferenceable on its own device only
  std::size_t size_bytes() const { return size_bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
  }

  Memory* memory_ = nullptr;
  void* data_ = nullptr;
  std::size_t size_bytes_ = 0;
};

// One of several copies made together.
struct MemoryCopy {
  void* destination;
  const void* source;
  std::size_t size_bytes;
};

class Memory {
 public:
  virtual ~Memory() = default;

  virtual std::string_view name() const = 0;  // "host", "cuda:0"

  // Whether the host may dereference Buffer::data().
  virtual bool host_accessible() const = 0;

  // Uninitialised memory. Errors: RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<Buffer> Allocate(std::size_t size_bytes) = 0;

  // Blocking copies of `size_bytes` between the host and this memory. Errors: INTERNAL.
  virtual absl::Status CopyFromHost(void* destination, const void* source,
                                    std::size_t size_bytes) = 0;
  virtual absl::Status CopyToHost(void* destination, const void* source,
                                  std::size_t size_bytes) = 0;

  // The same for many blocks; a device waits once for all of them. These go one by one.
  virtual absl::Status CopyAllFromHost(absl::Span<const MemoryCopy> copies);
  virtual absl::Status CopyAllToHost(absl::Span<const MemoryCopy> copies);

  // Memory of this device that another process allocated and lends by `ipc_handle`; the Buffer's
  // end gives back the access alone. Errors: INVALID_ARGUMENT with FieldOf "cuda_ipc_handle";
  // UNIMPLEMENTED, as of every memory that cannot be lent.
  virtual absl::StatusOr<Buffer> Import(std::string_view ipc_handle, std::size_t size_bytes);

  // A blocking copy within this memory. Errors: INTERNAL.
  virtual absl::Status CopyWithin(void* destination, const void* source, std::size_t size_bytes);

  // Freed bytes that are kept for later allocations; most keep nothing. Trim gives them back to the
  // system.
  virtual std::size_t kept_bytes() const { return 0; }
  virtual void Trim() {}

 private:
  friend class Buffer;
  virtual void Deallocate(void* data, std::size_t size_bytes) noexcept = 0;
};

inline Buffer::~Buffer() {
  if (data_ != nullptr) memory_->Deallocate(data_, size_bytes_);
}

// The process's host memory. Never destroyed. Large blocks that are freed are kept for a while, up
// to half a GiB: the system would have to make every page of a new one anew, which takes longer
// than to fill it.
Memory& HostMemory();

}  // namespace theria

#endif  // THERIA_KERNELS_API_MEMORY_H_
