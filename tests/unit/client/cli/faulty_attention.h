#ifndef THERIA_TESTS_UNIT_CLIENT_CLI_FAULTY_ATTENTION_H_
#define THERIA_TESTS_UNIT_CLIENT_CLI_FAULTY_ATTENTION_H_

#include <string>
#include <utility>

#include "theria/attention.h"
#include "theria/server_info.h"

namespace theria::cli {

// Mistakes that an implementation could make. Parity must find each of them.
enum class Fault {
  kNone,
  kCausalOffByOne,       // lets one future key in
  kWindowOffByOneLeft,   // one key too wide
  kWindowOffByOneRight,  // likewise
  kIgnoresBoolMask,
  kIgnoresFloatMask,
  kNegatesFloatMask,
  kForgetsDropoutScale,  // drops, but does not divide by 1-p
  kOtherDropoutBits,
  kSlopesOfOtherHeads,  // ALiBi's, one head on
  kLengthOffByOne,      // one key too many
  kDocumentOffByOne,    // the second document begins one row early
  kBiasBarOfOneBatch,   // bias_bar and bias_bar_dot are not summed over the batch
  kTransposesGroups,    // query head h reads key head h % heads_kv
  kRoundsLse,    // VJP and HVP rebuild P from an lse that is off by half a unit in the last place
  kSpreadsNaN,   // multiplies a NaN in v by zero for the rows that do not see it
  kSwallowsNaN,  // gives 0 where NaN is right
  kFrozenStatistics,  // JVP and HVP without the tangent of lse
  kNaNInEmptyRows,    // 0 / 0 where no key takes part
  kOneWrongElement,   // the last element of k_bar is off by a hundredth of the largest
  kIgnoresStrides,    // reads views as if they were row-major
};

// A stand-in for a server: the explicit attention of `theria parity`, rounded to the dtype of q,
// with one Fault. A fault changes the request before the computation or the result after it, so
// that the explicit attention itself has no code for tests.
class FaultyAttention : public client::Attention {
 public:
  explicit FaultyAttention(Fault fault = Fault::kNone) : fault_(fault) {}

  // One that ignores the option or the optional input of that name. `deterministic` ignored means
  // bits that differ from call to call.
  static FaultyAttention Ignoring(std::string name) {
    FaultyAttention attention;
    attention.ignored_ = std::move(name);
    return attention;
  }

  absl::StatusOr<client::AttentionResult> Run(client::Operation operation,
                                              const client::AttentionRequest& request,
                                              const client::CallOptions& call) override;

  // A listing of all operations and dtypes for `implementation`.
  static client::ServerInfo Info(
      client::Implementation implementation = client::Implementation::kReference);

 private:
  void Ignore(client::AttentionRequest& request) const;

  Fault fault_;
  std::string ignored_;
  int calls_ = 0;
};

}  // namespace theria::cli

#endif  // THERIA_TESTS_UNIT_CLIENT_CLI_FAULTY_ATTENTION_H_
