#ifndef THERIA_TESTS_UNIT_SERVER_CACHE_STORE_FIXTURE_H_
#define THERIA_TESTS_UNIT_SERVER_CACHE_STORE_FIXTURE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/api/memory.h"
#include "server/cache/tensor_store.h"

namespace theria::server {

// Host memory that counts what is allocated and can refuse. Thread-safe.
class CountingMemory final : public Memory {
 public:
  std::string_view name() const override { return "counting"; }
  bool host_accessible() const override { return true; }

  absl::StatusOr<Buffer> Allocate(std::size_t size_bytes) override {
    if (refuse.load()) return absl::ResourceExhaustedError("the memory refuses");
    live_bytes.fetch_add(size_bytes);
    ++allocations;
    return Buffer(this, ::operator new (size_bytes, std::align_val_t{64}), size_bytes);
  }
  absl::Status CopyFromHost(void* destination, const void* source, std::size_t size) override {
    std::memcpy(destination, source, size);
    return absl::OkStatus();
  }
  absl::Status CopyToHost(void* destination, const void* source, std::size_t size) override {
    std::memcpy(destination, source, size);
    return absl::OkStatus();
  }

  std::atomic<bool> refuse{false};
  std::atomic<std::size_t> live_bytes{0};
  std::atomic<int> allocations{0};

 private:
  void Deallocate(void* data, std::size_t size_bytes) noexcept override {
    ::operator delete (data, std::align_val_t{64});
    live_bytes.fetch_sub(size_bytes);
  }
};

// A store of 1000 bytes (watermarks at 900 and 700) whose clock stands still until Advance.
class StoreTest : public ::testing::Test {
 protected:
  StoreTest() { Reset(DefaultOptions()); }

  TensorStore::Options DefaultOptions() {
    TensorStore::Options options;
    options.capacity_bytes = 1000;
    options.high_watermark = 0.9;
    options.low_watermark = 0.7;
    options.default_ttl = absl::Seconds(100);
    options.max_ttl = absl::Seconds(1000);
    options.default_pin = absl::Seconds(10);
    options.max_pin = absl::Seconds(500);
    options.clock = [this] { return absl::Nanoseconds(now_nanoseconds_.load()); };
    return options;
  }

  void Reset(TensorStore::Options options) {
    store_.reset();
    store_ = std::make_unique<TensorStore>(memory_, std::move(options));
  }

  void Advance(absl::Duration time) { now_nanoseconds_ += absl::ToInt64Nanoseconds(time); }

  static TensorSpec Bytes(std::int64_t size_bytes) { return {DType::kBool, {size_bytes}}; }

  // A committed tensor of so many bytes, each of value `fill`; its handle.
  std::string Put(std::int64_t size_bytes, const TenantId& tenant = {},
                  absl::Duration ttl = absl::ZeroDuration(),
                  absl::Duration pin = absl::ZeroDuration(), int fill = 1) {
    auto pending = store_->Create(tenant, Bytes(size_bytes), ttl, pin);
    EXPECT_TRUE(pending.ok()) << pending.status();
    if (!pending.ok()) return "";
    std::memset(pending->data(), fill, static_cast<std::size_t>(size_bytes));
    return (*std::move(pending)).Commit().handle;
  }

  // Looks without counting as a use.
  bool Has(const std::string& handle, const TenantId& tenant = {}) {
    return store_->Stat(tenant, handle).ok();
  }

  std::uint64_t Evictions(EvictionReason reason) {
    return store_->stats().evictions[static_cast<std::size_t>(reason)];
  }

  CountingMemory memory_;
  std::atomic<std::int64_t> now_nanoseconds_{0};
  std::unique_ptr<TensorStore> store_;
  const TenantId me_;
};

}  // namespace theria::server

#endif  // THERIA_TESTS_UNIT_SERVER_CACHE_STORE_FIXTURE_H_
