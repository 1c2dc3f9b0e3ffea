#ifndef THERIA_TESTS_CONFORMANCE_PROBLEM_H_
#define THERIA_TESTS_CONFORMANCE_PROBLEM_H_

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/api/attention.h"
#include "tests/conformance/array.h"

// The table of problems that every backend is tested with, and their data.

namespace theria::conformance {

enum class MaskKind {
  kNone,
  kBool,             // [batch, heads_q, seq_q, seq_kv], about a third forbidden
  kKeyPadding,       // bool [batch, 1, 1, seq_kv]
  kQueryColumn,      // bool [seq_q, 1]: whole rows forbidden
  kKeyRow,           // float64 [seq_kv], added
  kAdditive,         // dtype [heads_q, seq_q, seq_kv], with some -inf
  kAdditiveFloat16,  // float16 [1, heads_q, 1, seq_kv], with some -inf
  kBias,             // dtype, full in the dimensions of `bias_dimensions`, with a few -inf
};

struct ProblemCase {
  std::string name;
  std::int64_t batch = 1, heads_q = 1, heads_kv = 1, seq_q = 1, seq_kv = 1;
  std::int64_t head_dim = 1, head_dim_v = 1;
  AttentionOptions options = {};  // `mask` stays empty: `mask_kind` makes it
  MaskKind mask_kind = MaskKind::kNone;
  Layout layout = Layout::kRowMajor;
  // Of kBias: bit 3 - d says that the mask has dimension d of [batch, heads_q, seq_q, seq_kv].
  unsigned bias_dimensions = 0b1111;
  int alibi_rank = 0;        // of alibi_slopes, [heads_q] or [batch, heads_q]; 0: none
  bool key_lengths = false;  // kv_lengths, some of them 0
  int documents = 0;         // of cu_seqlens_q and cu_seqlens_kv, some of them empty; 0: none
  // With lse_bar and lse_bar_dot; where the mask is floating point, with bias_dot, bias_bar and
  // bias_bar_dot.
  bool extended = false;
  std::uint64_t draw = 0;  // other numbers of the same kind
};

// Whether a case needs more than the first contract had. Backends without that may refuse it.
bool NeedsExtension(const ProblemCase& problem_case);

std::ostream& operator<<(std::ostream& out, const ProblemCase& problem_case);

const std::vector<ProblemCase>& ProblemCases();

// REQUIRES: `name` is in the table.
const ProblemCase& CaseNamed(const std::string& name);

// Inputs of all operations (q, k, v, o_bar, q_dot, k_dot, v_dot, o_bar_dot, and those of an
// extended case) as a backend gets them.
struct Problem {
  ProblemCase shape;
  DType dtype = DType::kFloat64;
  std::map<std::string, HostTensor> inputs;
  std::optional<HostTensor> mask;
  std::map<std::string, HostTensor> option_tensors;  // beside the mask, by the names of the options

  // What the inputs hold, after rounding to dtype.
  Arrays Values() const;
  // Whether the mask is differentiated.
  bool has_bias() const;
  // The dtype of an input or output of that name.
  DType DTypeOf(const std::string& name) const;
  // Replaces an input by other numbers, in the same layout.
  void Set(const std::string& name, const Array& array);
};

// Pseudo-random data that depend on the case alone.
Problem MakeProblem(const ProblemCase& problem_case, DType dtype);

}  // namespace theria::conformance

#endif  // THERIA_TESTS_CONFORMANCE_PROBLEM_H_
