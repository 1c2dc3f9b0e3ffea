#include "client/cli/parity/score_rules.h"

#include <cmath>
#include <limits>

namespace theria::cli {

ScoreRules::ScoreRules(const client::AttentionRequest& request)
    : options_(request.options),
      heads_q_(request.q.local().shape()[1]),
      seq_q_(request.q.local().shape()[2]),
      seq_kv_(request.k.local().shape()[2]),
      group_(heads_q_ / request.k.local().shape()[1]),
      scale_(options_.scale.value_or(1.0 /
                                     std::sqrt(static_cast<double>(request.q.local().shape()[3])))),
      dropout_(options_.dropout, heads_q_) {
  if (!options_.mask.has_value()) return;
  const client::Tensor& mask = options_.mask.local();
  mask_is_bool_ = mask.dtype() == client::DType::kBool;
  mask_ = mask.BroadcastTo({request.q.local().shape()[0], heads_q_, seq_q_, seq_kv_}).ToDoubles();
}

bool ScoreRules::TakesPart(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
  if (options_.is_causal && j > i) return false;
  if (options_.window.has_value()) {
    const client::Window& window = *options_.window;
    if (window.left.has_value() && j < i - *window.left) return false;
    if (window.right.has_value() && j > i + *window.right) return false;
  }
  if (mask_.empty()) return true;
  const double element = MaskElement(b, h, i, j);
  return mask_is_bool_ ? element != 0.0 : element != -std::numeric_limits<double>::infinity();
}

double ScoreRules::Bias(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
  return mask_.empty() || mask_is_bool_ ? 0.0 : MaskElement(b, h, i, j);
}

double ScoreRules::MaskElement(std::int64_t b, std::int64_t h, std::int64_t i,
                               std::int64_t j) const {
  return mask_[static_cast<std::size_t>(((b * heads_q_ + h) * seq_q_ + i) * seq_kv_ + j)];
}

}  // namespace theria::cli
