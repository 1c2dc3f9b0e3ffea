#include "client/cli/parity/poison.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "client/cli/parity/score_rules.h"

namespace theria::cli {
namespace {

using client::AnyTensor;
using client::AttentionRequest;
using client::Tensor;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool HasRowsOfKeys(std::string_view input) {
  return input == "k" || input == "v" || input == "k_dot" || input == "v_dot";
}

// For each row of a tensor [batch, heads, rows, dim]: whether it takes part in anything.
struct Participation {
  std::vector<bool> queries, keys;
};

Participation FindParticipation(const Problem& problem, const AttentionRequest& request) {
  Participation found{.queries = std::vector<bool>(static_cast<std::size_t>(
                          problem.batch * problem.heads_q * problem.seq_q)),
                      .keys = std::vector<bool>(static_cast<std::size_t>(
                          problem.batch * problem.heads_kv * problem.seq_kv))};
  const ScoreRules rules(request);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t h = 0; h < problem.heads_q; ++h) {
      const std::int64_t query_plane = b * problem.heads_q + h;
      const std::int64_t key_plane = b * problem.heads_kv + rules.KeyHead(h);
      for (std::int64_t i = 0; i < problem.seq_q; ++i) {
        for (std::int64_t j = 0; j < problem.seq_kv; ++j) {
          if (!rules.TakesPart(b, h, i, j)) continue;
          found.queries[static_cast<std::size_t>(query_plane * problem.seq_q + i)] = true;
          found.keys[static_cast<std::size_t>(key_plane * problem.seq_kv + j)] = true;
        }
      }
    }
  }
  return found;
}

void PoisonRows(const std::vector<bool>& takes_part, AnyTensor& tensor) {
  constexpr double kValues[] = {kNaN, kInfinity, -kInfinity};
  std::vector<double> values = tensor.local().ToDoubles();
  const std::size_t columns = values.size() / takes_part.size();
  for (std::size_t n = 0; n < values.size(); ++n) {
    if (!takes_part[n / columns]) values[n] = kValues[n % 3];
  }
  tensor = Tensor::FromDoubles(tensor.local().dtype(), values, tensor.local().shape());
}

// A NaN in batch 0, head 0: in the last key, which under a causal mask the last row alone sees, or
// in the query a quarter down.
void PoisonOneElement(bool is_of_key, AnyTensor& tensor) {
  const client::Shape& shape = tensor.local().shape();
  std::vector<double> values = tensor.local().ToDoubles();
  const std::int64_t row = is_of_key ? shape[2] - 1 : shape[2] / 4;
  values[static_cast<std::size_t>(row * shape[3] + shape[3] / 2)] = kNaN;
  tensor = Tensor::FromDoubles(tensor.local().dtype(), values, shape);
}

}  // namespace

void AddPoison(const Problem& problem, AttentionRequest& request) {
  if (problem.poison == Poison::kNone) return;
  const Participation participation = FindParticipation(problem, request);
  for (const client::InputField& field : client::kInputFields) {
    AnyTensor& tensor = request.*field.member;
    if (!tensor.has_value()) continue;
    const bool is_of_key = HasRowsOfKeys(field.name);
    if (problem.poison == Poison::kUnseen) {
      PoisonRows(is_of_key ? participation.keys : participation.queries, tensor);
    } else if (field.name == problem.poisoned) {
      PoisonOneElement(is_of_key, tensor);
    }
  }
}

}  // namespace theria::cli
