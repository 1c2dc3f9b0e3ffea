#ifndef THERIA_CLIENT_CLI_PARITY_PROBLEM_H_
#define THERIA_CLIENT_CLI_PARITY_PROBLEM_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "theria/attention.h"

// The problems of `theria parity`: sizes and options, and their data. Plain values.

namespace theria::cli {

enum class MaskKind {
  kNone,
  kBool,      // [seq_q, seq_kv], a quarter forbidden, each row keeps a key
  kAdditive,  // [batch, 1, seq_q, seq_kv], N(0, 1), one in ten -inf, each row keeps a key
  kRows,      // [heads_q, seq_q, 1], BOOL: every third row may see no key at all
  kKeys,      // [1, 1, 1, seq_kv], BOOL: no row may see every fifth key

  // Floating point, with the finite value of MaskFill where models write it to hide a key. Such a
  // key takes part, with a probability of zero unless the whole row has that value.
  kFilledHalf,   // [seq_q, seq_kv], N(0, 1), every second key filled
  kFilledRows,   // [seq_q, seq_kv], N(0, 1), every third row filled
  kLeftPadding,  // [batch, heads_q, seq_q, seq_kv], ALiBi, filled in the future and in the padding:
                 // a quarter of the keys, two quarters in the next batch, and so on

  // Floating point, N(0, 1), in the shapes in which models learn a bias.
  kHeadBias,  // [1, heads_q, seq_q, seq_kv]
  kKeyBias,   // [batch, 1, 1, seq_kv]
};

enum class MaskFill {
  kMinusBillion,  // -1e9, in a float32 mask beside float16 inputs, which do not reach that far
  kLowest,        // the lowest finite number of the dtype
};

// NaN and infinities among the inputs.
enum class Poison {
  kNone,
  kUnseen,  // all of k, v and their tangents in keys that no row sees; all of q, o_bar and their
            // tangents in rows that see no key. They must not show in any output.
  kSeen,    // one NaN in Problem::poisoned. It must show where the formulas take it, nowhere else.
};

enum class Layout {
  kRowMajor,
  kTransposed,  // stored as [batch, seq, heads, dim]
  kBroadcast,   // one element of the batch, repeated by a stride of 0
};

// The cotangents that a VJP or HVP is given.
enum class Cotangents {
  kOutput,     // o_bar
  kBoth,       // o_bar and lse_bar
  kStatistic,  // lse_bar
};

struct Problem {
  std::string option_class;  // "causal": a row of the summary
  std::string variant;       // tells apart problems of one class: "#12 softcap alibi"
  std::int64_t batch = 1;
  std::int64_t heads_q = 2;
  std::int64_t heads_kv = 2;
  std::int64_t seq_q = 33;
  std::int64_t seq_kv = 33;
  std::int64_t head_dim = 16;
  std::int64_t head_dim_v = 16;
  client::AttentionOptions options;  // all but its tensors, which are of the next members
  MaskKind mask = MaskKind::kNone;
  bool bias = false;        // the mask has a tangent, its cotangents are asked for
  bool alibi = false;       // slopes of 1/2, 1/4 and so on, in [batch, heads_q] if there is a batch
  bool kv_lengths = false;  // from all keys in batch 0 down to none in the last
  // The lengths of packed documents, whose sums are seq_q and seq_kv; none: not packed.
  std::vector<std::int32_t> documents_q, documents_kv;
  Cotangents cotangents = Cotangents::kOutput;
  Layout layout = Layout::kRowMajor;
  bool saved = false;           // VJP, JVP and HVP are given the o and lse of a forward
  bool only_v_tangent = false;  // q_dot, k_dot and o_bar_dot are absent
  bool only_q_tangent = false;  // k_dot, v_dot and o_bar_dot are absent
  bool identities = false;      // the identities are checked too
  // The size of elements of q and k. Their tangents are divided by it, so that S_dot is of order 1.
  double magnitude = 1.0;
  bool ties = false;  // elements of q and k are +magnitude or -magnitude: many scores are equal
  MaskFill fill = MaskFill::kLowest;
  Poison poison = Poison::kNone;
  std::string poisoned;  // of kSeen: the name of an input

  // "1x4/2 33x57 d64/48": batch x heads_q / heads_kv, seq_q x seq_kv, head_dim / head_dim_v.
  std::string Sizes() const;

  // Whether the dtype itself may lose more than the tolerances of tolerance.h tell: scores that are
  // large, or hidden by a large finite mask, are rounded coarsely before exp magnifies that.
  bool IsIllConditioned() const;

  // The size of the terms that an output sums up, about 1 where all inputs are N(0, 1).
  double MagnitudeOf(std::string_view output) const;
};

// Whether the problem applies to this operation and dtype: FAST products are for float32 alone, and
// saved statistics, cotangents, tangents and poisoned inputs not for all operations.
bool Applies(const Problem& problem, client::Operation operation, client::DType dtype);

// The request with random data rounded to `dtype`, every output that the operation has asked for
// inline. The same for equal arguments; `draw` gives other data for the same problem.
client::AttentionRequest MakeRequest(const Problem& problem, client::Operation operation,
                                     client::DType dtype, std::uint64_t draw = 0);

// The same values, exactly, as row-major float64.
client::AttentionRequest Widened(client::AttentionRequest request);

// The dtype of an output, given that of q.
client::DType OutputDType(const Problem& problem, std::string_view output, client::DType dtype);

// Whether the operation reads or produces the tensor of that name.
bool Reads(client::Operation operation, std::string_view input);
bool Produces(client::Operation operation, std::string_view output);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_PROBLEM_H_
