#ifndef THERIA_TESTS_BENCH_STORE_RAW_BYTES_H_
#define THERIA_TESTS_BENCH_STORE_RAW_BYTES_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

// What both ends of the benchmark send.

namespace theria::server {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kMaxBytes = 256 * kMiB;
constexpr std::int64_t kHeadDim = 64;

[[noreturn]] inline void Die(const std::string& why) {
  std::fprintf(stderr, "store_bench: %s\n", why.c_str());
  std::exit(1);
}

// Bytes that a transport sends from where they are.
inline grpc::Slice Borrow(const char* data, std::size_t size_bytes) {
  return grpc::Slice(
      const_cast<char*>(data), size_bytes, [](void*) {}, nullptr);
}

inline grpc::ByteBuffer Borrowed(const std::string& memory, std::size_t size_bytes) {
  const grpc::Slice slice = Borrow(memory.data(), size_bytes);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace theria::server

#endif  // THERIA_TESTS_BENCH_STORE_RAW_BYTES_H_
