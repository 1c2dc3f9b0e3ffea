#include "server/cache/lru_list.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server::internal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class LruListTest : public ::testing::Test {
 protected:
  LruListTest() {
    a_.size_bytes = 1;
    b_.size_bytes = 10;
    c_.size_bytes = 100;
  }

  std::vector<const Entry*> Order() const {
    std::vector<const Entry*> order;
    for (const Entry* entry = list_.oldest(); entry != nullptr; entry = entry->newer) {
      order.push_back(entry);
    }
    return order;
  }

  Entry a_, b_, c_;
  LruList list_;
};

TEST_F(LruListTest, KeepsTheOrderOfAppending) {
  list_.Append(a_);
  list_.Append(b_);
  list_.Append(c_);
  EXPECT_THAT(Order(), ElementsAre(&a_, &b_, &c_));
  EXPECT_EQ(list_.size_bytes(), 111);
}

TEST_F(LruListTest, RemovesFromEveryPlace) {
  for (Entry* first : {&a_, &b_, &c_}) {
    list_.Append(a_);
    list_.Append(b_);
    list_.Append(c_);
    list_.Remove(*first);
    std::vector<const Entry*> expected = {&a_, &b_, &c_};
    std::erase(expected, first);
    EXPECT_THAT(Order(), ::testing::ElementsAreArray(expected));
    EXPECT_EQ(list_.size_bytes(), 111 - first->size_bytes);
    EXPECT_FALSE(first->evictable);
    for (Entry* entry : {&a_, &b_, &c_}) list_.Remove(*entry);
    EXPECT_THAT(Order(), IsEmpty());
    EXPECT_EQ(list_.size_bytes(), 0);
  }
}

TEST_F(LruListTest, RemovingTwiceChangesNothing) {
  list_.Append(a_);
  list_.Append(b_);
  list_.Remove(a_);
  list_.Remove(a_);
  EXPECT_THAT(Order(), ElementsAre(&b_));
  EXPECT_EQ(list_.size_bytes(), 10);
}

}  // namespace
}  // namespace theria::server::internal
