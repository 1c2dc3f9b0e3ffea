#ifndef THERIA_CLIENT_CLI_PARITY_SCORE_RULES_H_
#define THERIA_CLIENT_CLI_PARITY_SCORE_RULES_H_

#include <cstdint>
#include <vector>

#include "client/cli/parity/dropout_matrix.h"
#include "theria/attention.h"

// The options of a request as functions of batch b, query head h, query i and key j. Written from
// docs/operator_contract.md alone; shares no code with any kernel.

namespace theria::cli {

class ScoreRules {
 public:
  // REQUIRES: `request` is valid and local, and outlives this.
  explicit ScoreRules(const client::AttentionRequest& request);

  double scale() const { return scale_; }

  // The head of k and v that query head `h` reads.
  std::int64_t KeyHead(std::int64_t h) const { return h / group_; }

  // Whether causal, window and mask all let key j take part in row i.
  bool TakesPart(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const;

  // What the mask adds to the scaled score. REQUIRES: the key takes part.
  double Bias(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const;

  // The element of Z, by which dropout multiplies the probability.
  double Dropout(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    return dropout_(b, h, i, j);
  }

 private:
  double MaskElement(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const;

  const client::AttentionOptions& options_;
  std::int64_t heads_q_, seq_q_, seq_kv_;
  std::int64_t group_;  // query heads that share a key head
  double scale_;
  bool mask_is_bool_ = false;
  std::vector<double> mask_;  // [batch, heads_q, seq_q, seq_kv], or none
  DropoutMatrix dropout_;
};

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_SCORE_RULES_H_
