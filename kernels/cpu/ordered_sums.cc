#include "kernels/cpu/ordered_sums.h"

#include <cstring>
#include <new>
#include <utility>

namespace theria::cpu {
namespace {

// Far more than outputs that fit a machine have tiles.
constexpr std::int64_t kMostTurns = std::int64_t{1} << 30;

}  // namespace

absl::StatusOr<std::unique_ptr<OrderedSums>> OrderedSums::Make(const Size& size) {
  std::int64_t sum_bytes = 0;
  std::int64_t turns = 0;
  if (__builtin_mul_overflow(size.tiles, size.tile_elements, &sum_bytes) ||
      __builtin_mul_overflow(sum_bytes, std::int64_t{sizeof(double)}, &sum_bytes) ||
      __builtin_mul_overflow(size.chains, size.tiles, &turns) || turns > kMostTurns) {
    return absl::ResourceExhaustedError("cpu workspace: too many key tiles");
  }
  std::unique_ptr<OrderedSums> sums(new OrderedSums(size));
  sums->turns_.reset(new (std::nothrow) std::atomic<std::int64_t>[turns]());
  sums->sums_.reset(new (std::nothrow) Buffer[size.chains]);
  if (sums->turns_ == nullptr || sums->sums_ == nullptr) {
    return absl::ResourceExhaustedError("cpu workspace: no memory for the turns of key tiles");
  }
  return sums;
}

absl::Status OrderedSums::Open(std::int64_t chain) {
  const std::size_t bytes =
      static_cast<std::size_t>(size_.tiles * size_.tile_elements) * sizeof(double);
  absl::StatusOr<Buffer> buffer = HostMemory().Allocate(bytes);
  if (!buffer.ok()) return buffer.status();
  std::memset(buffer->data(), 0, bytes);
  sums_[chain] = *std::move(buffer);
  return absl::OkStatus();
}

double* OrderedSums::Enter(std::int64_t chain, std::int64_t ordinal, std::int64_t tile) {
  std::atomic<std::int64_t>& turn = Turn(chain, tile);
  for (std::int64_t now = turn.load(std::memory_order_acquire); now != ordinal;
       now = turn.load(std::memory_order_acquire)) {
    turn.wait(now, std::memory_order_acquire);
  }
  double* const sums = static_cast<double*>(sums_[chain].data());
  return sums == nullptr ? nullptr : sums + tile * size_.tile_elements;
}

void OrderedSums::Leave(std::int64_t chain, std::int64_t ordinal, std::int64_t tile) {
  if (IsLast(ordinal)) {
    if (tile == size_.tiles - 1) sums_[chain] = Buffer();
    return;
  }
  std::atomic<std::int64_t>& turn = Turn(chain, tile);
  turn.store(ordinal + 1, std::memory_order_release);
  turn.notify_all();
}

}  // namespace theria::cpu
