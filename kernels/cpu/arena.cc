#include "kernels/cpu/arena.h"

namespace theria::cpu {
namespace {

constexpr std::size_t kAlignmentBytes = 64;

}  // namespace

void Arena::Reserve(double** array, std::int64_t rows, std::int64_t columns) {
  std::size_t bytes = 0;
  arrays_.emplace_back(array, size_bytes_);
  overflow_ |= __builtin_mul_overflow(rows, columns, &bytes);
  overflow_ |= __builtin_mul_overflow(bytes, sizeof(double), &bytes);
  overflow_ |= __builtin_add_overflow(bytes, kAlignmentBytes - 1, &bytes);
  bytes -= bytes % kAlignmentBytes;
  overflow_ |= __builtin_add_overflow(size_bytes_, bytes, &size_bytes_);
}

absl::Status Arena::Allocate() {
  if (overflow_) return absl::ResourceExhaustedError("cpu workspace: its size overflows");
  absl::StatusOr<Buffer> buffer = HostMemory().Allocate(size_bytes_);
  if (!buffer.ok()) return buffer.status();
  buffer_ = *std::move(buffer);
  for (const auto& [array, offset] : arrays_) {
    *array = reinterpret_cast<double*>(static_cast<char*>(buffer_.data()) + offset);
  }
  return absl::OkStatus();
}

}  // namespace theria::cpu
