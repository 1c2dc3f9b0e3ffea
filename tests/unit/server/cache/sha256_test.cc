#include "server/cache/sha256.h"

#include <algorithm>
#include <string>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

std::string HexOf(Sha256& sha256) {
  const Sha256Digest digest = *sha256.Finish();
  return absl::BytesToHexString(std::string(digest.begin(), digest.end()));
}

// The examples of FIPS 180-4's secure hash standard validation.
TEST(Sha256Test, KnownAnswers) {
  Sha256 empty;
  EXPECT_EQ(HexOf(empty), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 abc;
  abc.Update("abc", 3);
  EXPECT_EQ(HexOf(abc), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256Test, TheSplitDoesNotMatter) {
  const std::string million(1000000, 'a');
  Sha256 sha256;
  for (std::size_t at = 0, step = 1; at < million.size(); at += step, step = step * 3 % 7919 + 1) {
    sha256.Update(million.data() + at, std::min(step, million.size() - at));
  }
  EXPECT_EQ(HexOf(sha256), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

}  // namespace
}  // namespace theria::server
