#include "server/cache/tensor_store.h"

#include <string>
#include <utility>

#include "kernels/api/attention.h"
#include "server/cache/handle.h"
#include "tests/unit/server/cache/store_fixture.h"

namespace theria::server {
namespace {

using TensorStoreTest = StoreTest;

TEST_F(TensorStoreTest, HoldsWhatWasWritten) {
  auto pending = *store_->Create(me_, {DType::kFloat32, {2, 3}});
  auto* values = static_cast<float*>(pending.data());
  for (int i = 0; i < 6; ++i) values[i] = 0.5f * static_cast<float>(i);
  const TensorInfo info = std::move(pending).Commit();
  EXPECT_EQ(info.spec, (TensorSpec{DType::kFloat32, {2, 3}}));
  EXPECT_EQ(info.device, "counting");
  EXPECT_EQ(info.expires_in, absl::Seconds(100));
  EXPECT_EQ(info.pinned_for, absl::ZeroDuration());
  EXPECT_FALSE(info.sha256.has_value());
  EXPECT_EQ(info.readers, 0);

  const auto lease = store_->Acquire(me_, info.handle);
  ASSERT_TRUE(lease.ok());
  EXPECT_EQ(lease->spec(), info.spec);
  EXPECT_EQ(static_cast<const float*>(lease->data())[5], 2.5f);
  EXPECT_EQ(lease->info().handle, info.handle);
  EXPECT_EQ(lease->info().readers, 1);
}

TEST_F(TensorStoreTest, NothingIsReadableBeforeTheCommit) {
  const auto pending = *store_->Create(me_, Bytes(10));
  EXPECT_THAT(store_->List(me_, 10, "")->tensors, ::testing::IsEmpty());
  EXPECT_EQ(store_->stats().entries, 0);
  EXPECT_EQ(store_->stats().pending_bytes, 10);
}

TEST_F(TensorStoreTest, UnknownHandlesAreNotFoundByAnyCall) {
  const std::string deleted = Put(10);
  ASSERT_TRUE(store_->Delete(me_, deleted).ok());
  for (const std::string& handle : {std::string(), std::string("nonsense"), std::string(48, '0'),
                                    deleted, Handle::Random()->ToString()}) {
    EXPECT_EQ(store_->Acquire(me_, handle).status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(store_->Stat(me_, handle).status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(store_->Renew(me_, handle, absl::Seconds(1)).status().code(),
              absl::StatusCode::kNotFound);
    EXPECT_EQ(store_->Pin(me_, handle, absl::Seconds(1)).status().code(),
              absl::StatusCode::kNotFound);
    EXPECT_EQ(store_->Unpin(me_, handle).status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(store_->Delete(me_, handle).code(), absl::StatusCode::kNotFound);
  }
  EXPECT_EQ(store_->stats().misses, 5);
}

TEST_F(TensorStoreTest, ATenantCannotTouchAnothersTensor) {
  const TenantId other{"other"};
  const std::string handle = Put(10, other);
  const absl::Status unknown = store_->Stat(me_, std::string(48, 'a')).status();
  EXPECT_EQ(store_->Stat(me_, handle).status(), unknown);  // to the letter
  EXPECT_FALSE(store_->Acquire(me_, handle).ok());
  EXPECT_FALSE(store_->Renew(me_, handle, absl::Seconds(1)).ok());
  EXPECT_FALSE(store_->Pin(me_, handle, absl::Seconds(1)).ok());
  EXPECT_FALSE(store_->Unpin(me_, handle).ok());
  EXPECT_FALSE(store_->Delete(me_, handle).ok());
  const auto info = store_->Stat(other, handle);
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->expires_in, absl::Seconds(100));
  EXPECT_EQ(info->pinned_for, absl::ZeroDuration());
}

TEST_F(TensorStoreTest, SizesOverTheLimitAreInvalid) {
  TensorStore::Options options = DefaultOptions();
  options.max_tensor_bytes = 64;
  Reset(options);
  EXPECT_TRUE(store_->Create(me_, Bytes(64)).ok());
  const auto refused = store_->Create(me_, Bytes(65));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FieldOf(refused.status()), "shape");
  options.max_tensor_bytes = 5000;
  Reset(options);
  EXPECT_EQ(store_->options().max_tensor_bytes, 1000);
  EXPECT_EQ(FieldOf(store_->Create(me_, Bytes(1001)).status()), "shape");
}

TEST_F(TensorStoreTest, StatsAddUp) {
  const std::string a = Put(100, me_, absl::ZeroDuration(), absl::Seconds(10));
  const std::string b = Put(50);
  const auto pending = *store_->Create(me_, Bytes(25));
  const auto lease = store_->Acquire(me_, b);
  ASSERT_TRUE(store_->Delete(me_, b).ok());
  store_->Acquire(me_, b).status().IgnoreError();
  const TensorStoreStats stats = store_->stats();
  EXPECT_EQ(stats.capacity_bytes, 1000);
  EXPECT_EQ(stats.used_bytes, 175);
  EXPECT_EQ(stats.pending_bytes, 25);
  EXPECT_EQ(stats.pinned_bytes, 100);
  EXPECT_EQ(stats.entries, 1);
  EXPECT_EQ(stats.hits, 1);
  EXPECT_EQ(stats.misses, 1);
  EXPECT_EQ(Evictions(EvictionReason::kDeleted), 1);
  EXPECT_EQ(Evictions(EvictionReason::kExpired), 0);
  EXPECT_EQ(Evictions(EvictionReason::kWatermark), 0);
}

TEST_F(TensorStoreTest, ClockIsMonotonicByDefault) {
  TensorStore::Options options = DefaultOptions();
  options.clock = nullptr;
  Reset(options);
  const std::string handle = Put(1);
  const absl::Duration before = store_->Stat(me_, handle)->expires_in;
  EXPECT_LE(store_->Stat(me_, handle)->expires_in, before);
  EXPECT_GT(before, absl::Seconds(90));
}

TEST_F(TensorStoreTest, ReasonsHaveTheirMetricLabels) {
  EXPECT_EQ(EvictionReasonName(EvictionReason::kExpired), "expired");
  EXPECT_EQ(EvictionReasonName(EvictionReason::kWatermark), "watermark");
  EXPECT_EQ(EvictionReasonName(EvictionReason::kDeleted), "deleted");
}

}  // namespace
}  // namespace theria::server
