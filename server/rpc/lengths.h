#ifndef THERIA_SERVER_RPC_LENGTHS_H_
#define THERIA_SERVER_RPC_LENGTHS_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/api/attention.h"

// The values of lengths and offsets among the options. Kernels clamp what they read, so wrong
// values give wrong results only; here, where values lie in host memory, they give an error
// instead.

namespace theria::server {

// Whether the option of that name, of theria.v1.AttentionOptions, has values to be checked.
bool HasLengths(std::string_view option);

// The elements of a view of int32 in host memory. REQUIRES: rank 1.
std::vector<std::int32_t> ReadLengths(const TensorView& view);

// `values` of the option of that name: kv_lengths within [0, seq_kv]; cu_seqlens_q and
// cu_seqlens_kv from 0 to seq_q or seq_kv, not decreasing. Errors: INVALID_ARGUMENT with FieldOf
// the element ("options.cu_seqlens_q[2]").
absl::Status CheckLengths(std::string_view option, absl::Span<const std::int32_t> values,
                          const AttentionProblem& problem);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_LENGTHS_H_
