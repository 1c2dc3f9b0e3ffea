#include "server/cache/shared_regions.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "gtest/gtest.h"
#include "kernels/api/attention.h"
#include "tests/unit/server/fake_device.h"

namespace theria::server {
namespace {

constexpr std::size_t kCapacity = std::size_t{1} << 20;
const TenantId kOne{"one"};
const TenantId kTwo{"two"};

class SharedRegionsTest : public testing::Test {
 protected:
  SharedRegions::Options Options(double max_share_of_free = 0.0) {
    return {.capacity_bytes = kCapacity,
            .max_regions = 4,
            .max_share_of_free = max_share_of_free,
            .default_ttl = absl::Seconds(10),
            .max_ttl = absl::Seconds(60),
            .clock = [this] { return now_; }};
  }

  std::string Create(SharedRegions& regions, std::size_t size_bytes,
                     absl::Duration ttl = absl::ZeroDuration()) {
    const auto info = regions.Create(kOne, size_bytes, ttl);
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? info->name : "";
  }

  absl::Duration now_ = absl::Hours(1);
  FakeDeviceMemory device_;
};

TEST_F(SharedRegionsTest, MakesZerosThatNobodyCanTakeAway) {
  SharedRegions regions(Options());
  const std::string name = Create(regions, 5000);
  const auto region = regions.Acquire(kOne, name);
  ASSERT_TRUE(region.ok());
  EXPECT_EQ((*region)->size_bytes(), 5000u);
  EXPECT_EQ(std::string((*region)->data(), 5000), std::string(5000, '\0'));
  EXPECT_FALSE((*region)->is_on_device());
  EXPECT_NE(ftruncate((*region)->descriptor(), 0), 0);
  EXPECT_NE(ftruncate((*region)->descriptor(), 10000), 0);
  EXPECT_NE(fcntl((*region)->descriptor(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST_F(SharedRegionsTest, NamesAreTheirTenantsAlone) {
  SharedRegions regions(Options());
  const std::string name = Create(regions, 100);
  EXPECT_EQ(name.size(), 48u);
  EXPECT_NE(name, Create(regions, 100));
  EXPECT_TRUE(absl::IsNotFound(regions.Acquire(kTwo, name).status()));
  EXPECT_TRUE(absl::IsNotFound(regions.Renew(kTwo, name, absl::ZeroDuration()).status()));
  EXPECT_TRUE(absl::IsNotFound(regions.Delete(kTwo, name)));
  EXPECT_TRUE(absl::IsNotFound(regions.Acquire(kOne, name + "0").status()));
  EXPECT_EQ(regions.OfName(""), nullptr);
  EXPECT_NE(regions.OfName(name), nullptr);
  EXPECT_TRUE(regions.Delete(kOne, name).ok());
  EXPECT_TRUE(absl::IsNotFound(regions.Acquire(kOne, name).status()));
}

TEST_F(SharedRegionsTest, LeasesEndAndEachUseBeginsThemAnew) {
  SharedRegions regions(Options());
  const std::string name = Create(regions, 100);
  for (int i = 0; i < 3; ++i) {
    now_ += absl::Seconds(9);
    EXPECT_TRUE(regions.Acquire(kOne, name).ok());
  }
  const auto renewed = regions.Renew(kOne, name, absl::Seconds(40));
  ASSERT_TRUE(renewed.ok());
  EXPECT_EQ(renewed->expires_in, absl::Seconds(40));
  now_ += absl::Seconds(39);
  EXPECT_NE(regions.OfName(name), nullptr);
  now_ += absl::Seconds(1);
  EXPECT_EQ(regions.OfName(name), nullptr);
  EXPECT_TRUE(absl::IsNotFound(regions.Acquire(kOne, name).status()));
  regions.CollectExpired();
  EXPECT_EQ(regions.stats().regions, 0u);
  for (const absl::Duration ttl : {absl::Seconds(61), -absl::Seconds(1)}) {
    EXPECT_EQ(FieldOf(regions.Create(kOne, 100, ttl).status()), "ttl_ms");
  }
}

TEST_F(SharedRegionsTest, BytesCountUntilTheLastReaderLetsGo) {
  SharedRegions regions(Options());
  const std::string name = Create(regions, kCapacity);
  auto region = regions.Acquire(kOne, name);
  ASSERT_TRUE(region.ok());
  EXPECT_TRUE(regions.Delete(kOne, name).ok());
  std::memset((*region)->data(), 1, kCapacity);
  EXPECT_EQ(regions.stats().used_bytes, kCapacity);
  EXPECT_TRUE(absl::IsResourceExhausted(regions.Create(kOne, 1, {}).status()));
  region = absl::UnknownError("");
  EXPECT_EQ(regions.stats().used_bytes, 0u);
  Create(regions, kCapacity);
}

TEST_F(SharedRegionsTest, WhatExpiredMakesRoomAtOnce) {
  SharedRegions regions(Options());
  Create(regions, kCapacity);
  EXPECT_TRUE(absl::IsResourceExhausted(regions.Create(kOne, 1, {}).status()));
  now_ += absl::Seconds(10);
  Create(regions, kCapacity);
}

TEST_F(SharedRegionsTest, BoundsSizesAndCounts) {
  SharedRegions regions(Options());
  EXPECT_EQ(FieldOf(regions.Create(kOne, 0, {}).status()), "size_bytes");
  EXPECT_EQ(FieldOf(regions.Create(kOne, kCapacity + 1, {}).status()), "size_bytes");
  for (int i = 0; i < 4; ++i) Create(regions, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(regions.Create(kTwo, 1, {}).status()));
}

TEST_F(SharedRegionsTest, LeavesRoomForOtherTenants) {
  SharedRegions regions(Options(4.0));
  EXPECT_TRUE(absl::IsResourceExhausted(regions.Create(kOne, kCapacity, {}).status()));
  Create(regions, kCapacity / 5 * 4);
  EXPECT_TRUE(absl::IsResourceExhausted(regions.Create(kOne, kCapacity / 10, {}).status()));
  EXPECT_TRUE(regions.Create(kTwo, kCapacity / 10, {}).ok());
}

TEST_F(SharedRegionsTest, OpensWhatAClientLendsOfTheDevice) {
  absl::StatusOr<Buffer> block = device_.Allocate(4096);
  ASSERT_TRUE(block.ok());
  const std::string handle = FakeDeviceMemory::Lend(*block);
  SharedRegions regions(Options(), &device_);
  const auto info = regions.Import(kOne, handle, 4096, {});
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->device, "fake:0");
  EXPECT_EQ(device_.open_imports, 1);
  auto region = regions.Acquire(kOne, info->name);
  ASSERT_TRUE(region.ok());
  EXPECT_TRUE((*region)->is_on_device());
  EXPECT_EQ((*region)->data(), block->data());
  EXPECT_EQ((*region)->descriptor(), -1);
  EXPECT_EQ(regions.stats().used_bytes, 0u);  // not of the host's memory
  EXPECT_TRUE(regions.Delete(kOne, info->name).ok());
  EXPECT_EQ(device_.open_imports, 1);
  region = absl::UnknownError("");
  EXPECT_EQ(device_.open_imports, 0);
  EXPECT_EQ(FieldOf(regions.Import(kOne, handle, 4097, {}).status()), "cuda_ipc_handle");
  EXPECT_EQ(FieldOf(regions.Import(kOne, "x", 1, {}).status()), "cuda_ipc_handle");
  EXPECT_EQ(regions.stats().regions, 0u);
}

TEST_F(SharedRegionsTest, NothingCanBeLentWithoutADevice) {
  SharedRegions regions(Options(), &HostMemory());
  EXPECT_TRUE(absl::IsUnimplemented(regions.Import(kOne, "x", 1, {}).status()));
}

}  // namespace
}  // namespace theria::server
