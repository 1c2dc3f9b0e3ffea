#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "server/cache/relief.h"
#include "tests/unit/server/cache/store_fixture.h"
#include "tests/unit/server/fake_device.h"

// The store on a device, with host memory to spill to.

namespace theria::server {
namespace {

// 1000 bytes on the device (watermarks at 900 and 700), 600 to spill to.
class SpillTest : public StoreTest {
 protected:
  SpillTest() { ResetSpill(1000, 600); }
  ~SpillTest() override { store_.reset(); }  // before its memory

  void ResetSpill(std::size_t capacity_bytes, std::size_t spill_bytes) {
    store_.reset();
    TensorStore::Options options = DefaultOptions();
    options.capacity_bytes = capacity_bytes;
    options.spill_memory = &memory_;
    options.spill_capacity_bytes = spill_bytes;
    store_ = std::make_unique<TensorStore>(device_, options);
  }

  std::string PutOnDevice(std::int64_t size_bytes, char fill = 1, const TenantId& tenant = {},
                          absl::Duration pin = absl::ZeroDuration()) {
    auto pending = store_->Create(tenant, Bytes(size_bytes), absl::ZeroDuration(), pin);
    EXPECT_TRUE(pending.ok()) << pending.status();
    if (!pending.ok()) return "";
    const std::string bytes(static_cast<std::size_t>(size_bytes), fill);
    EXPECT_TRUE(device_.CopyFromHost(pending->data(), bytes.data(), bytes.size()).ok());
    return (*std::move(pending)).Commit().handle;
  }

  bool IsSpilled(const std::string& handle, const TenantId& tenant = {}) {
    const auto info = store_->Stat(tenant, handle);
    return info.ok() && info->device == memory_.name();
  }

  // Reads it back through a lease: whether every byte is `fill`.
  bool Holds(const std::string& handle, char fill, const TenantId& tenant = {}) {
    const auto lease = store_->Acquire(tenant, handle);
    if (!lease.ok()) return false;
    std::string bytes(lease->spec().SizeBytes(), '\0');
    if (!device_.CopyToHost(bytes.data(), lease->data(), bytes.size()).ok()) return false;
    return bytes == std::string(bytes.size(), fill);
  }

  FakeDeviceMemory device_;
};

using SpillDeathTest = SpillTest;

TEST_F(SpillDeathTest, TheHostCannotTouchTheFakeDevice) {
  const std::string handle = PutOnDevice(100);
  const auto lease = store_->Acquire(me_, handle);
  EXPECT_DEATH(static_cast<void>(*static_cast<const volatile char*>(lease->data())), "");
}

TEST_F(SpillTest, SpillsTheLeastRecentlyUsedAndRestoresItOnUse) {
  const std::string a = PutOnDevice(300, 'a');
  const std::string b = PutOnDevice(300, 'b');
  const std::string c = PutOnDevice(300, 'c');
  const std::string d = PutOnDevice(300, 'd');  // down to 700 with it: a and b go
  EXPECT_TRUE(IsSpilled(a) && IsSpilled(b));
  EXPECT_FALSE(IsSpilled(c) || IsSpilled(d));
  TensorStoreStats stats = store_->stats();
  EXPECT_EQ(stats.entries, 4);
  EXPECT_EQ(stats.used_bytes, 600);
  EXPECT_EQ(stats.spilled_bytes, 600);
  EXPECT_EQ(stats.spills, 2);
  EXPECT_EQ(stats.spill_traffic_bytes, 600);
  EXPECT_EQ(device_.live_bytes, 600);
  EXPECT_EQ(memory_.live_bytes, 600);
  EXPECT_EQ(Evictions(EvictionReason::kWatermark), 0);

  EXPECT_TRUE(Holds(a, 'a'));  // 900: at the mark, nothing has to go
  EXPECT_FALSE(IsSpilled(a));
  EXPECT_TRUE(Holds(b, 'b'));  // c is the oldest now
  EXPECT_TRUE(IsSpilled(c));
  EXPECT_TRUE(Holds(c, 'c') && Holds(d, 'd') && Holds(a, 'a') && Holds(b, 'b'));
  stats = store_->stats();
  EXPECT_EQ(stats.entries, 4);
  EXPECT_GE(stats.restores, 2);
  EXPECT_EQ(stats.restore_traffic_bytes, 300 * stats.restores);
  EXPECT_EQ(stats.used_bytes, device_.live_bytes);
  EXPECT_EQ(stats.spilled_bytes, memory_.live_bytes);
}

TEST_F(SpillTest, DropsTheOldestSpilledWhereTheSpillMemoryIsFull) {
  std::vector<std::string> handles;
  for (char i = 0; i < 9; ++i) handles.push_back(PutOnDevice(200, i));
  const TensorStoreStats stats = store_->stats();
  EXPECT_LE(stats.used_bytes, 1000);
  EXPECT_LE(stats.spilled_bytes, 600);
  EXPECT_GT(Evictions(EvictionReason::kWatermark), 0);
  EXPECT_EQ(stats.entries + Evictions(EvictionReason::kWatermark), handles.size());
  bool is_gone = true;  // the oldest are gone, then come the spilled, then those on the device
  bool is_spilled = true;
  for (const std::string& handle : handles) {
    EXPECT_TRUE(is_gone || Has(handle));
    is_gone = is_gone && !Has(handle);
    EXPECT_TRUE(is_spilled || !IsSpilled(handle));
    is_spilled = is_gone || (is_spilled && IsSpilled(handle));
  }
  EXPECT_FALSE(Has(handles.front()));
  for (char i = 8; i > 4; --i) EXPECT_TRUE(Holds(handles[static_cast<std::size_t>(i)], i));
}

TEST_F(SpillTest, WhatTheSpillMemoryCannotHoldIsDropped) {
  const std::string large = PutOnDevice(700, 'x');
  const std::string next = PutOnDevice(700, 'y');
  EXPECT_FALSE(Has(large));
  EXPECT_TRUE(Holds(next, 'y'));
  EXPECT_EQ(store_->stats().spills, 0);
}

TEST_F(SpillTest, ReadersAndPinsKeepTensorsOnTheDevice) {
  const std::string read = PutOnDevice(300, 'r');
  const std::string pinned = PutOnDevice(300, 'p', me_, absl::Seconds(50));
  const std::string idle = PutOnDevice(300, 'i');
  const auto lease = store_->Acquire(me_, read);
  ASSERT_TRUE(lease.ok());
  PutOnDevice(300);
  EXPECT_TRUE(IsSpilled(idle));
  EXPECT_FALSE(IsSpilled(read) || IsSpilled(pinned));
  EXPECT_EQ(store_->Acquire(me_, idle).status().code(), absl::StatusCode::kOk);
}

TEST_F(SpillTest, NoRoomToRestoreIsExhaustionAndKeepsTheTensor) {
  const std::string old = PutOnDevice(300, 'o');
  const std::string a = PutOnDevice(500, 'a', me_);
  const std::string b = PutOnDevice(400, 'b', me_);
  ASSERT_TRUE(IsSpilled(old));
  {
    const auto lease_a = store_->Acquire(me_, a);
    const auto lease_b = store_->Acquire(me_, b);
    ASSERT_TRUE(lease_a.ok() && lease_b.ok());
    EXPECT_EQ(store_->Acquire(me_, old).status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(store_->Stat(me_, old)->readers, 0);
  }
  EXPECT_TRUE(Holds(old, 'o'));
}

TEST_F(SpillTest, SpilledTensorsExpireAreDeletedAndPinnedLikeOthers) {
  const std::string a = PutOnDevice(300, 'a');
  const std::string b = PutOnDevice(300, 'b');
  PutOnDevice(300);
  PutOnDevice(300);
  ASSERT_TRUE(IsSpilled(a) && IsSpilled(b));
  ASSERT_TRUE(store_->Pin(me_, b, absl::Seconds(500)).ok());
  ASSERT_TRUE(store_->Delete(me_, a).ok());
  EXPECT_EQ(store_->stats().spilled_bytes, 300);
  EXPECT_EQ(memory_.live_bytes, 300);
  for (int i = 0; i < 6; ++i) PutOnDevice(300);  // never drops what is pinned
  EXPECT_TRUE(Holds(b, 'b'));
  Advance(absl::Seconds(2000));
  store_->CollectExpired();
  EXPECT_EQ(store_->stats().entries, 0);
  EXPECT_EQ(store_->stats().used_bytes + store_->stats().spilled_bytes, 0);
  EXPECT_EQ(device_.live_bytes + memory_.live_bytes, 0);
}

TEST_F(SpillTest, TheQuotaCountsBothMemories) {
  store_.reset();
  TensorStore::Options options = DefaultOptions();
  options.spill_memory = &memory_;
  options.spill_capacity_bytes = 1000;
  options.tenant_quota_bytes = 1200;
  store_ = std::make_unique<TensorStore>(device_, options);
  const std::string first = PutOnDevice(300);
  for (int i = 0; i < 3; ++i) PutOnDevice(300);
  EXPECT_TRUE(IsSpilled(first));
  PutOnDevice(300);  // 1500 in all
  EXPECT_FALSE(Has(first));
  EXPECT_EQ(store_->stats().entries, 4);
}

TEST_F(SpillTest, AQuotaOfOnesOwnMayTakeBothMemories) {
  const TenantId other{"other"};
  store_->SetQuota(me_, 1500);
  store_->SetQuota(other, 99999);
  EXPECT_EQ(store_->tenant_stats(me_).quota_bytes, 1500);
  EXPECT_EQ(store_->tenant_stats(other).quota_bytes, 1600);  // as if it had none
  const std::string first = PutOnDevice(300, 'f');
  for (int i = 0; i < 4; ++i) PutOnDevice(300);
  EXPECT_EQ(store_->tenant_stats(me_).used_bytes, 1500);
  EXPECT_EQ(store_->stats().entries, 5);
  EXPECT_TRUE(IsSpilled(first));
  EXPECT_TRUE(Holds(first, 'f'));
  PutOnDevice(300);
  EXPECT_EQ(store_->stats().entries, 5);
  EXPECT_EQ(store_->tenant_stats(me_).used_bytes, 1500);
}

TEST_F(SpillTest, AFullDeviceIsRelievedBySpilling) {
  device_.limit_bytes = 500;  // less than the store's budget: others use it too
  const std::string a = PutOnDevice(200, 'a');
  const std::string b = PutOnDevice(200, 'b');
  const std::string c = PutOnDevice(200, 'c');
  EXPECT_TRUE(IsSpilled(a));
  EXPECT_TRUE(Holds(a, 'a') && Holds(b, 'b') && Holds(c, 'c'));
  EXPECT_EQ(store_->stats().entries, 3);

  // Memory beside the store's own.
  const auto workspace = WithRelief(*store_, me_, 450, [&] { return device_.Allocate(450); });
  EXPECT_TRUE(workspace.ok()) << workspace.status();
  EXPECT_EQ(store_->stats().used_bytes, 0);
  EXPECT_EQ(store_->stats().entries, 3);
}

TEST_F(SpillTest, AFullDeviceIsExhaustionOnceNothingIsLeftToGive) {
  device_.limit_bytes = 500;
  const std::string pinned = PutOnDevice(300, 'p', me_, absl::Seconds(50));
  const std::string idle = PutOnDevice(100, 'i');
  EXPECT_EQ(store_->Create(me_, Bytes(250)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(IsSpilled(idle));  // it was tried
  EXPECT_TRUE(Holds(pinned, 'p'));
  const auto workspace = WithRelief(*store_, me_, 450, [&] { return device_.Allocate(450); });
  EXPECT_EQ(workspace.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(store_->stats().pending_bytes, 0);
  EXPECT_TRUE(Holds(idle, 'i'));
}

TEST_F(SpillTest, ReliefDropsOnesOwnWhereNothingCanBeSpilled) {
  ResetSpill(1000, 0);
  device_.limit_bytes = 500;
  const std::string mine = PutOnDevice(200);
  const std::string theirs = PutOnDevice(200, 't', TenantId{"other"});
  const std::string next = PutOnDevice(200);
  EXPECT_FALSE(Has(mine));
  EXPECT_TRUE(Has(theirs, TenantId{"other"}) && Has(next));
  EXPECT_EQ(store_->Relieve(TenantId{"nobody"}, 100), 0);
}

TEST_F(SpillTest, ReliefSpillsOthersTensorsButDropsNone) {
  const TenantId other{"other"};
  const std::string a = PutOnDevice(400, 'a', other);
  const std::string b = PutOnDevice(400, 'b', other);
  EXPECT_EQ(store_->Relieve(me_, 800), 400);  // there is room for one
  EXPECT_TRUE(IsSpilled(a, other));
  EXPECT_EQ(store_->Relieve(me_, 800), 0);
  EXPECT_TRUE(Holds(a, 'a', other) && Holds(b, 'b', other));
}

TEST_F(SpillTest, AFailedCopyOutDropsOnesOwnTensorOnly) {
  const std::string a = PutOnDevice(300);
  const TenantId other{"other"};
  const std::string theirs = PutOnDevice(100, 't', other);
  device_.copies_fail = true;
  EXPECT_EQ(store_->Relieve(TenantId{"third"}, 400), 0);
  EXPECT_TRUE(Has(a) && Has(theirs, other));
  EXPECT_EQ(store_->Relieve(me_, 300), 300);
  EXPECT_FALSE(Has(a));
  device_.copies_fail = false;
  EXPECT_TRUE(Holds(theirs, 't', other));
  EXPECT_EQ(store_->stats().spilled_bytes, 0);
  EXPECT_EQ(memory_.live_bytes, 0);
}

TEST_F(SpillTest, AFailedCopyInKeepsTheTensorSpilled) {
  const std::string a = PutOnDevice(300, 'a');
  ASSERT_EQ(store_->Relieve(me_, 300), 300);
  device_.copies_fail = true;
  EXPECT_EQ(store_->Acquire(me_, a).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(store_->stats().used_bytes, 0);
  EXPECT_EQ(device_.live_bytes, 0);
  device_.copies_fail = false;
  EXPECT_TRUE(Holds(a, 'a'));
}

TEST_F(SpillTest, AllAtOnceReadsWhatWasWrittenAndAddsUp) {
  constexpr int kTensors = 24;
  constexpr int kThreads = 4;
  ResetSpill(4000, 8000);
  std::vector<std::string> handles;
  for (char i = 0; i < kTensors; ++i) handles.push_back(PutOnDevice(300, i));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 random(static_cast<std::uint32_t>(thread));
      for (int step = 0; step < 400; ++step) {
        const auto pick = random() % kTensors;
        if (!Holds(handles[pick], static_cast<char>(pick))) ++wrong;
        if (step % 16 == 0) store_->Relieve(me_, 600);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const TensorStoreStats stats = store_->stats();
  EXPECT_EQ(stats.entries, kTensors);
  EXPECT_EQ(stats.used_bytes + stats.spilled_bytes, kTensors * 300);
  EXPECT_EQ(stats.used_bytes, device_.live_bytes);
  EXPECT_EQ(stats.spilled_bytes, memory_.live_bytes);
  EXPECT_GT(stats.restores, 0);
  for (const std::string& handle : handles) EXPECT_TRUE(store_->Delete(me_, handle).ok());
  EXPECT_EQ(device_.live_bytes + memory_.live_bytes, 0);
}

}  // namespace
}  // namespace theria::server
