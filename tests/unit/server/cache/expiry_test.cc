#include <string>

#include "kernels/api/attention.h"
#include "tests/unit/server/cache/store_fixture.h"

namespace theria::server {
namespace {

using ExpiryTest = StoreTest;
constexpr absl::Duration kZero = absl::ZeroDuration();
constexpr absl::Duration kInstant = absl::Nanoseconds(1);

TEST_F(ExpiryTest, HappensAtTheInstantAndNotBefore) {
  const std::string handle = Put(100, me_, absl::Seconds(5));
  EXPECT_EQ(store_->Stat(me_, handle)->expires_in, absl::Seconds(5));
  Advance(absl::Seconds(5) - kInstant);
  EXPECT_EQ(store_->Stat(me_, handle)->expires_in, kInstant);
  Advance(kInstant);
  EXPECT_EQ(store_->Stat(me_, handle).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(memory_.live_bytes, 0);
}

TEST_F(ExpiryTest, CountsFromTheCommit) {
  auto pending = *store_->Create(me_, Bytes(10), absl::Seconds(5), absl::Seconds(2));
  Advance(absl::Seconds(500));
  const TensorInfo info = std::move(pending).Commit();
  EXPECT_EQ(info.expires_in, absl::Seconds(5));
  EXPECT_EQ(info.pinned_for, absl::Seconds(2));
  EXPECT_TRUE(Has(info.handle));
}

TEST_F(ExpiryTest, CollectsWithoutAnyOtherCall) {
  Put(100, me_, absl::Seconds(1));
  Put(100, me_, absl::Seconds(2));
  Put(100, me_, absl::Seconds(3));
  Advance(absl::Seconds(2));
  store_->CollectExpired();
  EXPECT_EQ(memory_.live_bytes, 100);
  EXPECT_EQ(Evictions(EvictionReason::kExpired), 2);
}

TEST_F(ExpiryTest, RenewSetsTheLeaseLongerOrShorter) {
  const std::string handle = Put(100, me_, absl::Seconds(10));
  EXPECT_EQ(store_->Renew(me_, handle, absl::Seconds(50))->expires_in, absl::Seconds(50));
  Advance(absl::Seconds(20));
  EXPECT_EQ(store_->Renew(me_, handle, kZero)->expires_in, absl::Seconds(100));
  EXPECT_EQ(store_->Renew(me_, handle, absl::Seconds(1))->expires_in, absl::Seconds(1));
  Advance(absl::Seconds(1));
  EXPECT_FALSE(Has(handle));
  EXPECT_FALSE(store_->Renew(me_, handle, kZero).ok());
}

TEST_F(ExpiryTest, APinOutlastsTheLeaseAndThenEndsByItself) {
  const std::string handle = Put(100, me_, absl::Seconds(10));
  EXPECT_EQ(store_->Pin(me_, handle, absl::Seconds(30))->pinned_for, absl::Seconds(30));
  EXPECT_EQ(store_->stats().pinned_bytes, 100);
  Advance(absl::Seconds(20));
  EXPECT_EQ(store_->Stat(me_, handle)->expires_in, kZero);
  EXPECT_EQ(store_->Stat(me_, handle)->pinned_for, absl::Seconds(10));
  Advance(absl::Seconds(10));
  EXPECT_FALSE(Has(handle));
  EXPECT_EQ(store_->stats().pinned_bytes, 0);
}

TEST_F(ExpiryTest, APinShorterThanTheLeaseLeavesTheTensor) {
  const std::string handle = Put(100, me_, absl::Seconds(30), absl::Seconds(10));
  Advance(absl::Seconds(10));
  EXPECT_EQ(store_->Stat(me_, handle)->pinned_for, kZero);
  EXPECT_EQ(store_->Stat(me_, handle)->expires_in, absl::Seconds(20));
  EXPECT_EQ(store_->stats().pinned_bytes, 0);
}

TEST_F(ExpiryTest, TheLongerOfTwoPinsHolds) {
  const std::string handle = Put(100);
  store_->Pin(me_, handle, absl::Seconds(30)).IgnoreError();
  EXPECT_EQ(store_->Pin(me_, handle, absl::Seconds(5))->pinned_for, absl::Seconds(30));
  EXPECT_EQ(store_->Pin(me_, handle, absl::Seconds(60))->pinned_for, absl::Seconds(60));
  EXPECT_EQ(store_->stats().pinned_bytes, 100);
  EXPECT_EQ(store_->Pin(me_, Put(1), kZero)->pinned_for, absl::Seconds(10));
}

TEST_F(ExpiryTest, UnpinAfterTheLeaseEndsTheTensor) {
  const std::string handle = Put(100, me_, absl::Seconds(10), absl::Seconds(30));
  Advance(absl::Seconds(15));
  const auto info = store_->Unpin(me_, handle);
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->pinned_for, kZero);
  EXPECT_FALSE(Has(handle));
  EXPECT_EQ(memory_.live_bytes, 0);
}

TEST_F(ExpiryTest, UnpinOfWhatIsNotPinnedIsNoError) {
  const std::string handle = Put(100);
  EXPECT_TRUE(store_->Unpin(me_, handle).ok());
  EXPECT_EQ(store_->stats().pinned_bytes, 0);
}

TEST_F(ExpiryTest, APinnedTensorCanBeDeleted) {
  const std::string handle = Put(100, me_, kZero, absl::Seconds(30));
  EXPECT_TRUE(store_->Delete(me_, handle).ok());
  EXPECT_EQ(store_->stats().pinned_bytes, 0);
  EXPECT_EQ(store_->stats().used_bytes, 0);
}

TEST_F(ExpiryTest, DurationsOutOfRangeNameTheirField) {
  const std::string handle = Put(100);
  const absl::Duration too_long = absl::Seconds(1000) + kInstant;
  const absl::Duration negative = -kInstant;
  for (const absl::Duration wrong : {negative, too_long, absl::InfiniteDuration()}) {
    EXPECT_EQ(FieldOf(store_->Create(me_, Bytes(1), wrong).status()), "ttl_ms");
    EXPECT_EQ(FieldOf(store_->Create(me_, Bytes(1), kZero, wrong).status()), "pin_ms");
    EXPECT_EQ(FieldOf(store_->Renew(me_, handle, wrong).status()), "ttl_ms");
    EXPECT_EQ(FieldOf(store_->Pin(me_, handle, wrong).status()), "pin_ms");
    EXPECT_EQ(FieldOf(store_->FindContent(me_, Bytes(1), {}, wrong).status()), "ttl_ms");
    EXPECT_EQ(FieldOf(store_->FindContent(me_, Bytes(1), {}, kZero, wrong).status()), "pin_ms");
  }
  EXPECT_EQ(store_->Stat(me_, handle)->expires_in, absl::Seconds(100));
}

}  // namespace
}  // namespace theria::server
