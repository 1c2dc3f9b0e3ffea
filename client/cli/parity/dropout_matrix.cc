#include "client/cli/parity/dropout_matrix.h"

#include <cmath>

namespace theria::cli {
namespace {

constexpr std::uint32_t Low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
constexpr std::uint32_t High(std::uint64_t value) {
  return static_cast<std::uint32_t>(value >> 32);
}

}  // namespace

std::array<std::uint32_t, 4> Philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t second = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {High(second) ^ counter[1] ^ key[0], Low(second), High(first) ^ counter[3] ^ key[1],
               Low(first)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

DropoutMatrix::DropoutMatrix(const client::Dropout& dropout, std::int64_t heads_q)
    : kept_(1.0 / (1.0 - dropout.probability)),
      threshold_(static_cast<std::uint64_t>(std::nearbyint(dropout.probability * 0x1p32))),
      heads_q_(heads_q) {
  const std::array<std::uint32_t, 4> words = Philox4x32(
      {Low(dropout.offset), High(dropout.offset), 0, 0}, {Low(dropout.seed), High(dropout.seed)});
  key_ = {words[0], words[1]};
}

double DropoutMatrix::operator()(std::int64_t b, std::int64_t h, std::int64_t i,
                                 std::int64_t j) const {
  if (threshold_ == 0) return kept_;
  const auto plane = static_cast<std::uint64_t>(b * heads_q_ + h);
  const std::array<std::uint32_t, 4> words =
      Philox4x32({static_cast<std::uint32_t>(j / 2), static_cast<std::uint32_t>(i / 2), Low(plane),
                  High(plane)},
                 key_);
  const std::uint32_t word = words[static_cast<std::size_t>(2 * (i % 2) + j % 2)];
  return word < threshold_ ? 0.0 : kept_;
}

}  // namespace theria::cli
