#ifndef THERIA_TESTS_INTEGRATION_SOAK_PROBLEM_H_
#define THERIA_TESTS_INTEGRATION_SOAK_PROBLEM_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "theria/attention.h"
#include "theria/v1/attention.pb.h"

// Attention problems with their answers, computed in this process in float64 by another
// implementation than the server's. Immutable and thread-safe once made.

namespace theria::soak {

struct ProblemSize {
  client::DType dtype;
  int batch, heads, seq_q, seq_kv, head_dim, head_dim_v;
};

class Problem {
 public:
  // Normal inputs, rounded to the dtype, drawn from `seed`.
  Problem(const ProblemSize& size, std::uint64_t seed);

  // The operation's request, all inputs local.
  const client::AttentionRequest& request(client::Operation operation) const {
    return requests_[static_cast<std::size_t>(operation)];
  }

  // What is wrong with the outputs that `result` holds, or nothing. An output is right if no
  // element is off by more than a few roundings of the dtype at the largest element.
  std::optional<std::string> Check(client::Operation operation,
                                   const client::AttentionResult& result) const;

  // As Check, for one output alone.
  std::optional<std::string> CheckOutput(client::Operation operation, const std::string& output,
                                         const client::Tensor& actual) const;

 private:
  using Expected = std::vector<std::pair<std::string, std::vector<double>>>;

  ProblemSize size_;
  std::array<client::AttentionRequest, 4> requests_;
  std::array<Expected, 4> expected_;  // by operation; what the server returns by default
};

// An HVP that keeps a slot busy for a good part of a second, and little memory: its inputs repeat
// one element, and one output is wanted.
v1::HvpRequest LongHvp();

}  // namespace theria::soak

#endif  // THERIA_TESTS_INTEGRATION_SOAK_PROBLEM_H_
