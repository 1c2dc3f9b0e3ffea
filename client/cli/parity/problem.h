#ifndef THERIA_CLIENT_CLI_PARITY_PROBLEM_H_
#define THERIA_CLIENT_CLI_PARITY_PROBLEM_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "theria/attention.h"

// The problems of `theria parity`: sizes and options, and their data. Plain values.

namespace theria::cli {

enum class Suite { kQuick, kFull };

enum class MaskKind {
  kNone,
  kBool,      // [seq_q, seq_kv], a quarter forbidden, each row keeps a key
  kAdditive,  // [batch, 1, seq_q, seq_kv], N(0, 1), one in ten -inf, each row keeps a key
  kRows,      // [heads_q, seq_q, 1], BOOL: every third row may see no key at all
};

enum class Layout {
  kRowMajor,
  kTransposed,  // stored as [batch, seq, heads, dim]
  kBroadcast,   // one element of the batch, repeated by a stride of 0
};

struct Problem {
  std::string option_class;  // "causal": a row of the summary
  std::int64_t batch = 1;
  std::int64_t heads_q = 2;
  std::int64_t heads_kv = 2;
  std::int64_t seq_q = 33;
  std::int64_t seq_kv = 33;
  std::int64_t head_dim = 16;
  std::int64_t head_dim_v = 16;
  std::optional<double> scale;
  bool is_causal = false;
  std::optional<client::Window> window;
  MaskKind mask = MaskKind::kNone;
  double dropout = 0.0;
  Layout layout = Layout::kRowMajor;
  bool saved = false;           // VJP, JVP and HVP are given the o and lse of a forward
  bool only_v_tangent = false;  // q_dot, k_dot and o_bar_dot are absent
  bool only_q_tangent = false;  // k_dot, v_dot and o_bar_dot are absent
  client::Precision precision = client::Precision::kStrict;
  bool identities = false;  // the identities are checked too

  // "1x4/2 33x57 d64/48": batch x heads_q / heads_kv, seq_q x seq_kv, head_dim / head_dim_v.
  std::string Sizes() const;
};

std::vector<Problem> Problems(Suite suite);

// Whether the problem, of sequence operations of any dtype, makes sense for this one: FAST products
// are for float32 alone, and saved statistics and tangents not for all operations.
bool Applies(const Problem& problem, client::Operation operation, client::DType dtype);

// The request with random data rounded to `dtype`, every output that the operation has asked for
// inline. The same for equal arguments; `draw` gives other data for the same problem.
client::AttentionRequest MakeRequest(const Problem& problem, client::Operation operation,
                                     client::DType dtype, std::uint64_t draw = 0);

// The same values, exactly, as row-major float64.
client::AttentionRequest Widened(client::AttentionRequest request);

// Whether the operation reads or produces the tensor of that name.
bool Reads(client::Operation operation, std::string_view input);
bool Produces(client::Operation operation, std::string_view output);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_PROBLEM_H_
