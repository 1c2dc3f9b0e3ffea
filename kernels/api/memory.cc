#include "kernels/api/memory.h"

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kernels/api/message.h"

namespace theria {
namespace {

constexpr std::size_t kAlignmentBytes = 64;

std::size_t PhysicalMemoryBytes() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page_bytes <= 0) return SIZE_MAX / 2;
  return static_cast<std::size_t>(pages) * static_cast<std::size_t>(page_bytes);
}

class HostMemoryResource final : public Memory {
 public:
  std::string_view name() const override { return "host"; }
  bool host_accessible() const override { return true; }

  absl::StatusOr<Buffer> Allocate(std::size_t size_bytes) override {
    // The system would hand out more than the machine has and only fail when it is touched.
    static const std::size_t limit_bytes = PhysicalMemoryBytes();
    if (size_bytes > limit_bytes) {
      return absl::ResourceExhaustedError(
          Message("host memory: ", size_bytes, " bytes asked for, the machine has ", limit_bytes));
    }
    const std::size_t blocks = size_bytes / kAlignmentBytes + 1;
    void* data = std::aligned_alloc(kAlignmentBytes, blocks * kAlignmentBytes);
    if (data == nullptr) {
      return absl::ResourceExhaustedError(
          Message("host memory: cannot allocate ", size_bytes, " bytes"));
    }
    return Buffer(this, data, size_bytes);
  }

  absl::Status CopyFromHost(void* destination, const void* source,
                            std::size_t size_bytes) override {
    if (size_bytes != 0) std::memcpy(destination, source, size_bytes);
    return absl::OkStatus();
  }

  absl::Status CopyToHost(void* destination, const void* source, std::size_t size_bytes) override {
    if (size_bytes != 0) std::memcpy(destination, source, size_bytes);
    return absl::OkStatus();
  }

 private:
  void Deallocate(void* data, std::size_t /*size_bytes*/) noexcept override { std::free(data); }
};

}  // namespace

absl::Status Memory::CopyAllFromHost(absl::Span<const MemoryCopy> copies) {
  for (const MemoryCopy& copy : copies) {
    absl::Status copied = CopyFromHost(copy.destination, copy.source, copy.size_bytes);
    if (!copied.ok()) return copied;
  }
  return absl::OkStatus();
}

absl::Status Memory::CopyAllToHost(absl::Span<const MemoryCopy> copies) {
  for (const MemoryCopy& copy : copies) {
    absl::Status copied = CopyToHost(copy.destination, copy.source, copy.size_bytes);
    if (!copied.ok()) return copied;
  }
  return absl::OkStatus();
}

Memory& HostMemory() {
  static HostMemoryResource& memory = *new HostMemoryResource;
  return memory;
}

}  // namespace theria
