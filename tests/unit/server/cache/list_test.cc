#include <string>
#include <vector>

#include "kernels/api/attention.h"
#include "tests/unit/server/cache/store_fixture.h"

namespace theria::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ListTest : public StoreTest {
 protected:
  std::vector<std::string> Page(int size, std::string& token, const TenantId& tenant = {}) {
    const auto page = store_->List(tenant, size, token);
    EXPECT_TRUE(page.ok()) << page.status();
    std::vector<std::string> handles;
    for (const TensorInfo& info : page->tensors) handles.push_back(info.handle);
    token = page->next_page_token;
    return handles;
  }
};

TEST_F(ListTest, OldestFirstInPages) {
  const std::string a = Put(1), b = Put(1), c = Put(1), d = Put(1);
  ASSERT_TRUE(store_->Acquire(me_, a).ok());  // use does not change the order
  std::string token;
  EXPECT_THAT(Page(3, token), ElementsAre(a, b, c));
  EXPECT_NE(token, "");
  EXPECT_THAT(Page(3, token), ElementsAre(d));
  EXPECT_EQ(token, "");
  EXPECT_THAT(Page(4, token), ElementsAre(a, b, c, d));
  EXPECT_EQ(token, "");
}

TEST_F(ListTest, AnEmptyStoreHasOnePage) {
  std::string token;
  EXPECT_THAT(Page(1, token), IsEmpty());
  EXPECT_EQ(token, "");
}

TEST_F(ListTest, WhatStaysIsListedOnceWhateverChanges) {
  const std::string a = Put(1), b = Put(1), c = Put(1), d = Put(1);
  std::string token;
  EXPECT_THAT(Page(2, token), ElementsAre(a, b));
  ASSERT_TRUE(store_->Delete(me_, a).ok());  // behind the token
  ASSERT_TRUE(store_->Delete(me_, b).ok());  // the token's own
  ASSERT_TRUE(store_->Delete(me_, c).ok());  // ahead of it
  const std::string e = Put(1);
  EXPECT_THAT(Page(2, token), ElementsAre(d, e));
}

TEST_F(ListTest, PendingExpiredAndForeignTensorsAreNotListed) {
  const auto pending = *store_->Create(me_, Bytes(1));
  Put(1, me_, absl::Seconds(1));
  const std::string theirs = Put(1, TenantId{"other"});
  const std::string mine = Put(1);
  Advance(absl::Seconds(1));
  std::string token;
  EXPECT_THAT(Page(10, token), ElementsAre(mine));
  EXPECT_THAT(Page(10, token, TenantId{"other"}), ElementsAre(theirs));
}

TEST_F(ListTest, RefusesTokensItDidNotGive) {
  Put(1);
  for (const std::string wrong :
       {"x", "1", "0x00000000000001", "000000000000000G", "ffffffffffffffff", "0000000000000002",
        " 00000000000001", "00000000000000001", "0000000000000001 "}) {
    const auto page = store_->List(me_, 1, wrong);
    EXPECT_EQ(page.status().code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_EQ(FieldOf(page.status()), "page_token") << wrong;
  }
}

}  // namespace
}  // namespace theria::server
