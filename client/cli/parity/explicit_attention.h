#ifndef THERIA_CLIENT_CLI_PARITY_EXPLICIT_ATTENTION_H_
#define THERIA_CLIENT_CLI_PARITY_EXPLICIT_ATTENTION_H_

#include "theria/attention.h"

// Attention and its derivatives as docs/operator_contract.md writes them: whole matrices, stored
// probabilities, plain loops. `theria parity` holds servers to it, so it shares no code with any
// kernel. Thread-safe.
//
//  * Row statistics are the row's maximum m and the sum l, kept apart: P = exp(S - m) / l.
//  * A key that takes no part in a row is never read for that row, whatever it holds. NaN in what
//    does take part goes where the formulas take it.
//  * Saved o and lse are ignored: everything is computed from q, k and v.
//
// All functions REQUIRE a valid request of local tensors, and return every output that the
// operation has, whatever `outputs` asks for.

namespace theria::cli {

// All outputs in float64. Computed in float64, or in long double for float64 inputs, whose own
// rounding errors would otherwise be as large as those of what is compared.
client::AttentionResult ExactAttention(client::Operation operation,
                                       const client::AttentionRequest& request);

// The order in which the products of a score are summed. Each order has other rounding errors.
enum class SumOrder { kForward, kBackward, kLanes };
inline constexpr SumOrder kSumOrders[] = {SumOrder::kForward, SumOrder::kBackward,
                                          SumOrder::kLanes};

// The same formulas in the arithmetic of the inputs' dtype: products and sums in float32 (float64
// for float64 inputs). For float16 and bfloat16, matrices are rounded to the dtype before they are
// factors of a second product, and o before delta. Outputs have the dtypes of a server's.
//
// Its distance from ExactAttention tells what the dtype itself loses on these inputs.
client::AttentionResult SameDTypeAttention(client::Operation operation,
                                           const client::AttentionRequest& request, SumOrder order);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_EXPLICIT_ATTENTION_H_
