#include "kernels/api/memory.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "kernels/api/message.h"

namespace theria {
namespace {

constexpr std::size_t kAlignmentBytes = 64;

// Of blocks that are kept: the smallest, what sizes are rounded to, and all together.
constexpr std::size_t kMinKeptBytes = std::size_t{256} << 10;
constexpr std::size_t kUnitBytes = std::size_t{64} << 10;
constexpr std::size_t kMaxKeptBytes = std::size_t{512} << 20;

// AddressSanitizer is to see every use after the end.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kKeepsBlocks = false;
#else
constexpr bool kKeepsBlocks = true;
#endif

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
    void* data = TakeKept(size_bytes);
    if (data == nullptr) data = std::aligned_alloc(kAlignmentBytes, BlockBytes(size_bytes));
    if (data == nullptr) {
      Trim();
      data = std::aligned_alloc(kAlignmentBytes, BlockBytes(size_bytes));
    }
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

  std::size_t kept_bytes() const override {
    const std::lock_guard lock(mutex_);
    return kept_bytes_;
  }

  void Trim() override {
    const std::lock_guard lock(mutex_);
    for (const Kept& kept : kept_) std::free(kept.data);
    kept_.clear();
    kept_bytes_ = 0;
  }

 private:
  struct Kept {
    void* data;
    std::size_t block_bytes;
  };

  static std::size_t BlockBytes(std::size_t size_bytes) {
    const std::size_t unit = size_bytes < kMinKeptBytes ? kAlignmentBytes : kUnitBytes;
    return (size_bytes / unit + 1) * unit;
  }

  void* TakeKept(std::size_t size_bytes) {
    const std::lock_guard lock(mutex_);
    const std::size_t block_bytes = BlockBytes(size_bytes);
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) {
      return kept.block_bytes == block_bytes;
    });
    if (found == kept_.end()) return nullptr;
    void* const data = found->data;
    kept_bytes_ -= block_bytes;
    kept_.erase(found);
    return data;
  }

  void Deallocate(void* data, std::size_t size_bytes) noexcept override {
    const std::size_t block_bytes = BlockBytes(size_bytes);
    if (kKeepsBlocks && size_bytes >= kMinKeptBytes && block_bytes <= kMaxKeptBytes) {
      const std::lock_guard lock(mutex_);
      kept_.push_back({data, block_bytes});
      kept_bytes_ += block_bytes;
      while (kept_bytes_ > kMaxKeptBytes) {  // the oldest first
        kept_bytes_ -= kept_.front().block_bytes;
        std::free(kept_.front().data);
        kept_.pop_front();
      }
      return;
    }
    std::free(data);
  }

  mutable std::mutex mutex_;
  std::deque<Kept> kept_;
  std::size_t kept_bytes_ = 0;
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

absl::StatusOr<Buffer> Memory::Import(std::string_view /*ipc_handle*/, std::size_t /*size_bytes*/) {
  return absl::UnimplementedError(Message("memory of ", name(), " cannot be lent"));
}

absl::Status Memory::CopyWithin(void* destination, const void* source, std::size_t size_bytes) {
  if (host_accessible()) return CopyFromHost(destination, source, size_bytes);
  std::vector<char> staged(size_bytes);
  absl::Status copied = CopyToHost(staged.data(), source, size_bytes);
  if (!copied.ok()) return copied;
  return CopyFromHost(destination, staged.data(), size_bytes);
}

Memory& HostMemory() {
  static HostMemoryResource& memory = *new HostMemoryResource;
  return memory;
}

}  // namespace theria
