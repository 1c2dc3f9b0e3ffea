#ifndef THERIA_TESTS_UNIT_SERVER_FAKE_DEVICE_H_
#define THERIA_TESTS_UNIT_SERVER_FAKE_DEVICE_H_

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/api/attention.h"
#include "kernels/api/memory.h"

// A device's memory without a device. Thread-safe.
//
// Each block is mapped twice: at the address that Buffer::data() gives, where no access is allowed,
// so that a host that dereferences it dies of SIGSEGV; and at another, through which copies and
// HostAddress go. Allocation ends at `limit_bytes` or fails on demand.

namespace theria::server {

class FakeDeviceMemory final : public Memory {
 public:
  ~FakeDeviceMemory() override = default;

  std::string_view name() const override { return "fake:0"; }
  bool host_accessible() const override { return false; }

  absl::StatusOr<Buffer> Allocate(std::size_t size_bytes) override {
    if (refusals.load() > 0) {
      --refusals;
      return absl::ResourceExhaustedError("the fake device refuses");
    }
    if (live_bytes.fetch_add(size_bytes) + size_bytes > limit_bytes.load()) {
      live_bytes.fetch_sub(size_bytes);
      return absl::ResourceExhaustedError("the fake device is full");
    }
    const std::size_t mapped_bytes = MappedBytes(size_bytes);
    const int file = memfd_create("fake_device", 0);
    void* device = MAP_FAILED;
    void* host = MAP_FAILED;
    if (file >= 0 && ftruncate(file, static_cast<off_t>(mapped_bytes)) == 0) {
      device = mmap(nullptr, mapped_bytes, PROT_NONE, MAP_SHARED, file, 0);
      host = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    }
    close(file);
    if (device == MAP_FAILED || host == MAP_FAILED) return absl::InternalError("mmap failed");
    std::memset(host, 0xA5, mapped_bytes);  // uninitialised
    const std::lock_guard lock(mutex_);
    blocks_[reinterpret_cast<std::uintptr_t>(device)] = {static_cast<char*>(host), size_bytes};
    return Buffer(this, device, size_bytes);
  }

  absl::Status CopyFromHost(void* destination, const void* source,
                            std::size_t size_bytes) override {
    return Copy(HostAddress(destination, size_bytes), source, size_bytes);
  }
  absl::Status CopyToHost(void* destination, const void* source, std::size_t size_bytes) override {
    return Copy(destination, HostAddress(source, size_bytes), size_bytes);
  }

  // What another process would send to lend `block`, and how many such are open.
  static std::string Lend(const Buffer& block) {
    const auto address = reinterpret_cast<std::uintptr_t>(block.data());
    return {reinterpret_cast<const char*>(&address), sizeof(address)};
  }
  absl::StatusOr<Buffer> Import(std::string_view ipc_handle, std::size_t size_bytes) override {
    std::uintptr_t address = 0;
    if (ipc_handle.size() == sizeof(address)) {
      std::memcpy(&address, ipc_handle.data(), sizeof(address));
    }
    void* const data = reinterpret_cast<void*>(address);
    if (HostAddress(data, size_bytes) == nullptr) {
      return InvalidField("cuda_ipc_handle", "names no such allocation");
    }
    ++open_imports;
    return Buffer(&lent_, data, size_bytes);
  }
  std::atomic<int> open_imports{0};

  // Where the host may access `size_bytes` at a device address; null if they are not all of one
  // block.
  char* HostAddress(const void* device, std::size_t size_bytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(device);
    const std::lock_guard lock(mutex_);
    auto block = blocks_.upper_bound(address);
    if (block == blocks_.begin()) return nullptr;
    --block;
    const std::size_t offset_bytes = address - block->first;
    if (offset_bytes + size_bytes > block->second.size_bytes) return nullptr;
    return block->second.host + offset_bytes;
  }

  std::atomic<std::size_t> limit_bytes{std::numeric_limits<std::size_t>::max() / 2};
  std::atomic<std::size_t> live_bytes{0};
  std::atomic<int> refusals{0};  // how many allocations fail from now on
  std::atomic<bool> copies_fail{false};

 private:
  // Closes what Import opened.
  class Lent final : public Memory {
   public:
    explicit Lent(FakeDeviceMemory& device) : device_(device) {}
    std::string_view name() const override { return "lent"; }
    bool host_accessible() const override { return false; }
    absl::StatusOr<Buffer> Allocate(std::size_t) override { return absl::InternalError("lent"); }
    absl::Status CopyFromHost(void*, const void*, std::size_t) override {
      return absl::InternalError("lent");
    }
    absl::Status CopyToHost(void*, const void*, std::size_t) override {
      return absl::InternalError("lent");
    }

   private:
    void Deallocate(void*, std::size_t) noexcept override { --device_.open_imports; }
    FakeDeviceMemory& device_;
  };

  struct Block {
    char* host;
    std::size_t size_bytes;
  };

  static std::size_t MappedBytes(std::size_t size_bytes) {
    const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return (size_bytes / page_bytes + 1) * page_bytes;
  }

  absl::Status Copy(void* destination, const void* source, std::size_t size_bytes) {
    if (copies_fail) return absl::InternalError("the fake device copies nothing");
    if (destination == nullptr || source == nullptr) {
      return absl::InternalError("an address that is not of the fake device");
    }
    std::memcpy(destination, source, size_bytes);
    return absl::OkStatus();
  }

  void Deallocate(void* data, std::size_t size_bytes) noexcept override {
    const std::size_t mapped_bytes = MappedBytes(size_bytes);
    {
      const std::lock_guard lock(mutex_);
      const auto block = blocks_.find(reinterpret_cast<std::uintptr_t>(data));
      munmap(block->second.host, mapped_bytes);
      blocks_.erase(block);
    }
    munmap(data, mapped_bytes);
    live_bytes.fetch_sub(size_bytes);
  }

  Lent lent_{*this};
  std::mutex mutex_;
  std::map<std::uintptr_t, Block> blocks_;  // by the device's address
};

}  // namespace theria::server

#endif  // THERIA_TESTS_UNIT_SERVER_FAKE_DEVICE_H_
