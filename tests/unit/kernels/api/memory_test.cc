#include "kernels/api/memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <utility>

namespace theria {
namespace {

TEST(HostMemoryTest, BlocksAreAlignedAndWritable) {
  for (const std::size_t size_bytes : {1u, 63u, 64u, 65u, 1000000u}) {
    const auto buffer = HostMemory().Allocate(size_bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % 64, 0u);
    EXPECT_EQ(buffer->size_bytes(), size_bytes);
    std::memset(buffer->data(), 1, size_bytes);
  }
}

TEST(HostMemoryTest, AnEmptyBlockIsABlock) {
  const auto buffer = HostMemory().Allocate(0);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  EXPECT_TRUE(static_cast<bool>(*buffer));
  EXPECT_EQ(buffer->size_bytes(), 0u);
}

TEST(HostMemoryTest, AbsurdSizesAreResourceExhausted) {
  for (const std::size_t size_bytes :
       {SIZE_MAX, SIZE_MAX - 63, SIZE_MAX / 2, std::size_t{1} << 50}) {
    EXPECT_EQ(HostMemory().Allocate(size_bytes).status().code(),
              absl::StatusCode::kResourceExhausted)
        << size_bytes;
  }
}

TEST(HostMemoryTest, KeepsLargeBlocksUntilItIsTrimmed) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "nothing is kept under AddressSanitizer";
#endif
  constexpr std::size_t kBytes = std::size_t{1} << 20;
  HostMemory().Trim();
  EXPECT_EQ(HostMemory().kept_bytes(), 0u);
  { const auto small = HostMemory().Allocate(1000); }
  EXPECT_EQ(HostMemory().kept_bytes(), 0u);
  { const auto large = HostMemory().Allocate(kBytes); }
  EXPECT_GE(HostMemory().kept_bytes(), kBytes);
  {
    const auto again = HostMemory().Allocate(kBytes);
    EXPECT_EQ(HostMemory().kept_bytes(), 0u);
  }
  EXPECT_GE(HostMemory().kept_bytes(), kBytes);
  HostMemory().Trim();
  EXPECT_EQ(HostMemory().kept_bytes(), 0u);
}

TEST(HostMemoryTest, Copies) {
  auto buffer = HostMemory().Allocate(8);
  ASSERT_TRUE(buffer.ok());
  const char sent[8] = "theria!";
  char received[8] = {};
  EXPECT_TRUE(HostMemory().CopyFromHost(buffer->data(), sent, sizeof(sent)).ok());
  EXPECT_TRUE(HostMemory().CopyToHost(received, buffer->data(), sizeof(sent)).ok());
  EXPECT_STREQ(received, sent);
  EXPECT_TRUE(HostMemory().CopyFromHost(nullptr, nullptr, 0).ok());
}

TEST(BufferTest, MovesOwnership) {
  auto allocated = HostMemory().Allocate(8);
  ASSERT_TRUE(allocated.ok());
  Buffer first = *std::move(allocated);
  void* const data = first.data();
  Buffer second = std::move(first);
  EXPECT_EQ(second.data(), data);
  second = Buffer();
  EXPECT_FALSE(static_cast<bool>(second));
}

}  // namespace
}  // namespace theria
