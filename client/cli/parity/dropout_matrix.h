#ifndef THERIA_CLIENT_CLI_PARITY_DROPOUT_MATRIX_H_
#define THERIA_CLIENT_CLI_PARITY_DROPOUT_MATRIX_H_

#include <array>
#include <cstdint>

#include "theria/attention.h"

// The dropout matrix Z of docs/operator_contract.md, written from that definition alone, so that a
// fault of a server's generator cannot be a fault here as well. Plain values.

namespace theria::cli {

// The block function of Salmon, Moraes, Dror and Shaw (SC 2011), ten rounds.
std::array<std::uint32_t, 4> Philox4x32(std::array<std::uint32_t, 4> counter,
                                        std::array<std::uint32_t, 2> key);

class DropoutMatrix {
 public:
  DropoutMatrix(const client::Dropout& dropout, std::int64_t heads_q);

  // Z of head `h` in batch `b` at query `i` and key `j`: 0 or 1/(1-p).
  double operator()(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const;

 private:
  double kept_ = 1.0;            // 1/(1-p)
  std::uint64_t threshold_ = 0;  // words below it are dropped
  std::array<std::uint32_t, 2> key_ = {};
  std::int64_t heads_q_ = 1;
};

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_DROPOUT_MATRIX_H_
