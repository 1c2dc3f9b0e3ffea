#include <utility>

#include "tests/unit/server/cache/store_fixture.h"

namespace theria::server {
namespace {

using LeaseTest = StoreTest;

TEST_F(LeaseTest, KeepsBytesAfterDelete) {
  const std::string handle = Put(100, me_, absl::ZeroDuration(), absl::ZeroDuration(), 42);
  auto lease = store_->Acquire(me_, handle);
  ASSERT_TRUE(lease.ok());
  ASSERT_TRUE(store_->Delete(me_, handle).ok());
  EXPECT_FALSE(Has(handle));
  EXPECT_EQ(store_->stats().entries, 0);
  EXPECT_EQ(store_->stats().used_bytes, 100);
  EXPECT_EQ(memory_.live_bytes, 100);
  EXPECT_EQ(static_cast<const char*>(lease->data())[99], 42);
  EXPECT_EQ(lease->info().expires_in, absl::ZeroDuration());
  EXPECT_EQ(lease->info().readers, 1);
  lease = TensorLease();
  EXPECT_EQ(store_->stats().used_bytes, 0);
  EXPECT_EQ(memory_.live_bytes, 0);
}

TEST_F(LeaseTest, KeepsBytesAfterExpiryAndCountsReaders) {
  const std::string handle = Put(100);
  auto first = *store_->Acquire(me_, handle);
  auto second = *store_->Acquire(me_, handle);
  EXPECT_EQ(store_->Stat(me_, handle)->readers, 2);
  Advance(absl::Seconds(100));
  EXPECT_FALSE(Has(handle));
  EXPECT_EQ(Evictions(EvictionReason::kExpired), 1);
  EXPECT_EQ(store_->stats().used_bytes, 100);
  first = TensorLease();
  EXPECT_EQ(memory_.live_bytes, 100);
  second = TensorLease();
  EXPECT_EQ(memory_.live_bytes, 0);
  EXPECT_EQ(store_->stats().used_bytes, 0);
}

TEST_F(LeaseTest, MovesHoldOneReadBetweenThem) {
  const std::string handle = Put(100);
  const std::string other = Put(50);
  TensorLease a = *store_->Acquire(me_, handle);
  TensorLease b = std::move(a);
  EXPECT_EQ(store_->Stat(me_, handle)->readers, 1);
  b = *store_->Acquire(me_, other);
  EXPECT_EQ(store_->Stat(me_, handle)->readers, 0);
  EXPECT_EQ(store_->Stat(me_, other)->readers, 1);
  EXPECT_EQ(b.spec(), Bytes(50));
}

TEST_F(LeaseTest, PendingTensorAbortsUnlessCommitted) {
  {
    auto pending = *store_->Create(me_, Bytes(300));
    EXPECT_EQ(store_->stats().pending_bytes, 300);
    EXPECT_EQ(store_->stats().used_bytes, 300);
    EXPECT_EQ(store_->stats().entries, 0);
    PendingTensor moved = std::move(pending);
    EXPECT_EQ(store_->stats().pending_bytes, 300);
    moved = *store_->Create(me_, Bytes(200));
    EXPECT_EQ(store_->stats().pending_bytes, 200);
  }
  EXPECT_EQ(store_->stats().pending_bytes, 0);
  EXPECT_EQ(store_->stats().used_bytes, 0);
  EXPECT_EQ(memory_.live_bytes, 0);
  EXPECT_EQ(memory_.allocations, 2);
}

}  // namespace
}  // namespace theria::server
