#ifndef THERIA_TESTS_UNIT_CLIENT_CLI_NAIVE_ATTENTION_H_
#define THERIA_TESTS_UNIT_CLIENT_CLI_NAIVE_ATTENTION_H_

#include "theria/attention.h"
#include "theria/server_info.h"

namespace theria::cli {

// Mistakes that an implementation could make. Each is one that parity must see.
enum class Defect {
  kNone,
  kFrozenStatistics,  // JVP and HVP without the tangent of lse
  kIgnoresCausal,
  kIgnoresDropout,
  kIgnoresScale,
  kTransposesGroups,  // query head h reads key head h % heads_kv
  kDropsObarDot,      // HVP without the terms of o_bar_dot
  kNaNInEmptyRows,    // 0 / 0 where no key takes part
  kOneWrongElement,   // the last element of k_bar is off by a hundredth of the largest
  kIgnoresStrides,    // reads views as if they were row-major
  kLosesMask,
};

// The formulas of docs/operator_contract.md written down as they stand, in float64, on whole
// matrices, with a Defect on request; results are rounded to the dtype of q. Dropout draws from a
// generator of its own. An independent stand-in for a server.
class NaiveAttention : public client::Attention {
 public:
  explicit NaiveAttention(Defect defect = Defect::kNone) : defect_(defect) {}

  absl::StatusOr<client::AttentionResult> Run(client::Operation operation,
                                              const client::AttentionRequest& request,
                                              const client::CallOptions& call) override;

  // A listing of all operations and dtypes for `implementation`.
  static client::ServerInfo Info(
      client::Implementation implementation = client::Implementation::kReference);

 private:
  const Defect defect_;
};

}  // namespace theria::cli

#endif  // THERIA_TESTS_UNIT_CLIENT_CLI_NAIVE_ATTENTION_H_
