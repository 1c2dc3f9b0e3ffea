#include <string>
#include <vector>

#include "server/cache/exhausted.h"
#include "tests/unit/server/cache/store_fixture.h"

namespace theria::server {
namespace {

using EvictionTest = StoreTest;

TEST_F(EvictionTest, StartsAboveTheHighWatermarkAndStopsAtTheLow) {
  std::vector<std::string> handles;
  for (int i = 0; i < 9; ++i) handles.push_back(Put(100));  // 900: at the mark, not above
  EXPECT_EQ(Evictions(EvictionReason::kWatermark), 0);
  const std::string last = Put(100);  // down to 700 with the new one: three go
  EXPECT_EQ(Evictions(EvictionReason::kWatermark), 3);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(Has(handles[i]), i >= 3) << i;
  EXPECT_TRUE(Has(last));
  EXPECT_EQ(store_->stats().used_bytes, 700);
  EXPECT_EQ(memory_.live_bytes, 700);
}

TEST_F(EvictionTest, GoesByUse) {
  const std::string a = Put(300);
  const std::string b = Put(300);
  const std::string c = Put(300);
  ASSERT_TRUE(store_->Acquire(me_, a).ok());                      // a use
  ASSERT_TRUE(store_->Renew(me_, b, absl::ZeroDuration()).ok());  // a use
  ASSERT_TRUE(store_->Stat(me_, c).ok());                         // none
  ASSERT_TRUE(store_->List(me_, 10, "").ok());                    // none
  Put(100);
  EXPECT_FALSE(Has(c));
  EXPECT_TRUE(Has(a));
  EXPECT_TRUE(Has(b));
  Put(300);
  EXPECT_FALSE(Has(a));
}

TEST_F(EvictionTest, AReadEndsAsTheLatestUse) {
  const std::string a = Put(300);
  const std::string b = Put(300);
  const std::string c = Put(300);
  {
    const auto lease = store_->Acquire(me_, a);
    ASSERT_TRUE(store_->Acquire(me_, b).ok());
  }
  Put(100);  // the order of use is c, b, a
  EXPECT_FALSE(Has(c));
  Put(300);
  EXPECT_FALSE(Has(b));
  EXPECT_TRUE(Has(a));
}

TEST_F(EvictionTest, SparesReadersAndPins) {
  const std::string read = Put(300);
  const std::string pinned = Put(300, me_, absl::ZeroDuration(), absl::Seconds(50));
  const std::string idle = Put(300);
  const auto lease = store_->Acquire(me_, read);
  Put(200);
  EXPECT_TRUE(Has(read));
  EXPECT_TRUE(Has(pinned));
  EXPECT_FALSE(Has(idle));
}

TEST_F(EvictionTest, AnImpossibleRequestEvictsNothing) {
  const std::string pinned = Put(500, me_, absl::ZeroDuration(), absl::Seconds(50));
  const std::string idle = Put(300);
  const auto refused = store_->Create(me_, Bytes(501));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Has(pinned));
  EXPECT_TRUE(Has(idle));
  EXPECT_TRUE(store_->Create(me_, Bytes(500)).ok());
  EXPECT_FALSE(Has(idle));
}

TEST_F(EvictionTest, PendingBytesCannotBeEvicted) {
  const auto pending = *store_->Create(me_, Bytes(800));
  EXPECT_EQ(store_->Create(me_, Bytes(201)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(store_->Create(me_, Bytes(200)).ok());
}

TEST_F(EvictionTest, TheEndOfAPinMakesEvictable) {
  const std::string a = Put(400, me_, absl::ZeroDuration(), absl::Seconds(20));
  const std::string b = Put(400, me_, absl::ZeroDuration(), absl::Seconds(50));
  EXPECT_FALSE(store_->Create(me_, Bytes(300)).ok());
  Advance(absl::Seconds(20));
  EXPECT_TRUE(store_->Create(me_, Bytes(300)).ok());
  EXPECT_FALSE(Has(a));
  EXPECT_FALSE(store_->Create(me_, Bytes(700)).ok());
  ASSERT_TRUE(store_->Unpin(me_, b).ok());
  EXPECT_TRUE(store_->Create(me_, Bytes(700)).ok());
  EXPECT_FALSE(Has(b));
}

TEST_F(EvictionTest, OneTenantNeverEvictsAnother) {
  const TenantId other{"other"};
  const std::string theirs = Put(600, other);
  const std::string mine = Put(300);
  EXPECT_EQ(store_->Create(me_, Bytes(500)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Has(mine));
  const std::string next = Put(400);
  EXPECT_TRUE(Has(theirs, other));
  EXPECT_FALSE(Has(mine));
  EXPECT_TRUE(Has(next));
}

TEST_F(EvictionTest, WhatCannotBeReachedIsNotTried) {
  const std::string theirs = Put(750, TenantId{"other"});
  const std::string a = Put(50), b = Put(50);
  Put(60);  // 910: the low mark is out of reach, the high one is not
  EXPECT_FALSE(Has(a));
  EXPECT_TRUE(Has(b));
  Put(200);  // 1060 without a, 950 with nothing else left: within the capacity only
  EXPECT_FALSE(Has(b));
  EXPECT_EQ(store_->stats().used_bytes, 950);
}

TEST_F(EvictionTest, TheQuotaBoundsPendingPinnedAndStillReadBytes) {
  TensorStore::Options options = DefaultOptions();
  options.tenant_quota_bytes = 400;
  Reset(options);
  const auto pending = store_->Create(me_, Bytes(100));
  const std::string pinned = Put(100, me_, absl::ZeroDuration(), absl::Seconds(10));
  const std::string handle = Put(100);
  {
    const auto lease = store_->Acquire(me_, handle);
    ASSERT_TRUE(store_->Delete(me_, handle).ok());
    EXPECT_EQ(store_->Create(me_, Bytes(101)).status().code(),
              absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(store_->Create(me_, Bytes(100)).ok());
    EXPECT_TRUE(store_->Create(TenantId{"other"}, Bytes(400)).ok());
  }
  EXPECT_FALSE(store_->Create(me_, Bytes(201)).ok());
  EXPECT_TRUE(store_->Create(me_, Bytes(200)).ok());
}

TEST_F(EvictionTest, MoreThanTheWholeQuotaIsRefusedForGood) {
  TensorStore::Options options = DefaultOptions();
  options.tenant_quota_bytes = 400;
  Reset(options);
  const std::string kept = Put(100);
  const absl::Status refused = store_->Create(me_, Bytes(401)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(IsExhaustedForGood(refused));
  EXPECT_NE(std::string(refused.message()).find("larger than the tenant's quota of 400"),
            std::string::npos);
  EXPECT_TRUE(Has(kept));
  const auto all = store_->Create(me_, Bytes(400));
  ASSERT_TRUE(all.ok());
  const absl::Status full = store_->Create(me_, Bytes(1)).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(IsExhaustedForGood(full));  // passes when `all` is gone
}

TEST_F(EvictionTest, TheQuotaEvictsNoMoreThanItMust) {
  TensorStore::Options options = DefaultOptions();
  options.tenant_quota_bytes = 400;
  Reset(options);
  const std::string theirs = Put(100, TenantId{"other"});
  const std::string a = Put(100), b = Put(100), c = Put(100), d = Put(100);
  Put(150);
  EXPECT_FALSE(Has(a));
  EXPECT_FALSE(Has(b));
  EXPECT_TRUE(Has(c));
  EXPECT_TRUE(Has(d));
  EXPECT_TRUE(Has(theirs, TenantId{"other"}));
}

TEST_F(EvictionTest, ARefusingMemoryLeavesNoTrace) {
  memory_.refuse = true;
  EXPECT_EQ(store_->Create(me_, Bytes(500)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(store_->stats().used_bytes, 0);
  EXPECT_EQ(store_->stats().pending_bytes, 0);
  memory_.refuse = false;
  EXPECT_TRUE(Has(Put(900)));
}

}  // namespace
}  // namespace theria::server
