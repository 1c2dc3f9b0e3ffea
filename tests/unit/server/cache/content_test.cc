#include <optional>
#include <string>
#include <utility>

#include "tests/unit/server/cache/store_fixture.h"

namespace theria::server {
namespace {

constexpr absl::Duration kZero = absl::ZeroDuration();

class ContentTest : public StoreTest {
 protected:
  static Sha256Digest Digest(std::uint8_t value) {
    Sha256Digest digest;
    digest.fill(value);
    return digest;
  }

  TensorInfo PutContent(std::uint8_t value, TensorSpec spec, const TenantId& tenant = {},
                        absl::Duration ttl = kZero) {
    return (*store_->Create(tenant, std::move(spec), ttl)).Commit(Digest(value));
  }

  std::optional<TensorInfo> Find(std::uint8_t value, const TensorSpec& spec,
                                 const TenantId& tenant = {}, absl::Duration ttl = kZero,
                                 absl::Duration pin = kZero) {
    return *store_->FindContent(tenant, spec, Digest(value), ttl, pin);
  }
};

TEST_F(ContentTest, IsFoundByDigestDTypeAndShapeTogether) {
  const TensorSpec spec{DType::kFloat32, {2, 3}};
  const TensorInfo info = PutContent(7, spec);
  EXPECT_EQ(info.sha256, Digest(7));
  ASSERT_TRUE(Find(7, spec).has_value());
  EXPECT_EQ(Find(7, spec)->handle, info.handle);
  EXPECT_FALSE(Find(8, spec).has_value());
  EXPECT_FALSE(Find(7, {DType::kFloat32, {3, 2}}).has_value());
  EXPECT_FALSE(Find(7, {DType::kFloat16, {2, 3}}).has_value());
  EXPECT_FALSE(Find(7, spec, TenantId{"other"}).has_value());
}

TEST_F(ContentTest, TensorsWithoutDigestAreNotFound) {
  Put(10);
  EXPECT_FALSE(Find(0, Bytes(10)).has_value());
}

TEST_F(ContentTest, FindingExtendsAndNeverShortens) {
  PutContent(1, Bytes(10), me_, absl::Seconds(50));
  EXPECT_EQ(Find(1, Bytes(10), me_, absl::Seconds(20))->expires_in, absl::Seconds(50));
  EXPECT_EQ(Find(1, Bytes(10), me_, absl::Seconds(80))->expires_in, absl::Seconds(80));
  EXPECT_EQ(Find(1, Bytes(10))->expires_in, absl::Seconds(100));
  EXPECT_EQ(Find(1, Bytes(10))->pinned_for, kZero);
  EXPECT_EQ(Find(1, Bytes(10), me_, kZero, absl::Seconds(5))->pinned_for, absl::Seconds(5));
  EXPECT_EQ(store_->stats().pinned_bytes, 10);
}

TEST_F(ContentTest, FindingIsAUse) {
  const TensorInfo a = PutContent(1, Bytes(400));
  const TensorInfo b = PutContent(2, Bytes(400));
  ASSERT_TRUE(Find(1, Bytes(400)).has_value());
  Put(200);
  EXPECT_TRUE(Has(a.handle));
  EXPECT_FALSE(Has(b.handle));
}

TEST_F(ContentTest, ASecondCommitOfTheSameContentIsDropped) {
  auto first = *store_->Create(me_, Bytes(100), absl::Seconds(10));
  auto second = *store_->Create(me_, Bytes(100), absl::Seconds(60), absl::Seconds(5));
  const TensorInfo a = std::move(first).Commit(Digest(3));
  EXPECT_EQ(store_->stats().used_bytes, 200);
  const TensorInfo b = std::move(second).Commit(Digest(3));
  EXPECT_EQ(a.handle, b.handle);
  EXPECT_EQ(b.expires_in, absl::Seconds(60));
  EXPECT_EQ(b.pinned_for, absl::Seconds(5));
  EXPECT_EQ(store_->stats().used_bytes, 100);
  EXPECT_EQ(store_->stats().pending_bytes, 0);
  EXPECT_EQ(store_->stats().entries, 1);
  EXPECT_EQ(memory_.live_bytes, 100);
}

TEST_F(ContentTest, WhatIsGoneIsNotFoundAndMayComeAgain) {
  const TensorInfo old = PutContent(4, Bytes(100));
  const auto lease = store_->Acquire(me_, old.handle);
  ASSERT_TRUE(store_->Delete(me_, old.handle).ok());
  EXPECT_FALSE(Find(4, Bytes(100)).has_value());
  const TensorInfo again = PutContent(4, Bytes(100));
  EXPECT_NE(again.handle, old.handle);
  EXPECT_EQ(Find(4, Bytes(100))->handle, again.handle);
  Advance(absl::Seconds(100));
  EXPECT_FALSE(Find(4, Bytes(100)).has_value());
}

}  // namespace
}  // namespace theria::server
