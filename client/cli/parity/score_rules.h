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

  // Whether causal, window, mask, lengths and documents all let key j take part in row i.
  bool TakesPart(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const;

  // The bound of the scores' magnitude before anything is added to them; 0: none.
  double softcap() const { return options_.softcap.value_or(0.0); }

  // What mask and ALiBi add to the score. REQUIRES: the key takes part.
  double Bias(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const;

  // The element of Z, by which dropout multiplies the probability.
  double Dropout(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    return dropout_(b, h, i, j);
  }

 private:
  // A stretch of positions: all of a tensor, or one document.
  struct Stretch {
    std::int64_t begin = 0;
    std::int64_t end = 0;
  };
  double MaskElement(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const;
  // The rows and keys among which row i has its place.
  void FindStretches(std::int64_t i, Stretch& rows, Stretch& keys) const;
  // How far key j lies behind the diagonal of row i: i + offset - j, within the document.
  std::int64_t Distance(std::int64_t i, std::int64_t j) const;

  const client::AttentionOptions& options_;
  std::int64_t heads_q_, seq_q_, seq_kv_;
  std::int64_t group_;  // query heads that share a key head
  double scale_;
  bool mask_is_bool_ = false;
  std::vector<double> mask_;    // [batch, heads_q, seq_q, seq_kv], or none
  std::vector<double> slopes_;  // [batch, heads_q], or none
  std::vector<double> kv_lengths_, cu_seqlens_q_, cu_seqlens_kv_;
  DropoutMatrix dropout_;
};

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_SCORE_RULES_H_
