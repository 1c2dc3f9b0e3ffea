#include "client/cli/parity/score_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace theria::cli {

ScoreRules::ScoreRules(const client::AttentionRequest& request)
    : options_(request.options),
      heads_q_(request.q.local().shape()[1]),
      seq_q_(request.q.local().shape()[2]),
      seq_kv_(request.k.local().shape()[2]),
      group_(heads_q_ / std::max<std::int64_t>(request.k.local().shape()[1], 1)),
      scale_(options_.scale.value_or(1.0 /
                                     std::sqrt(static_cast<double>(request.q.local().shape()[3])))),
      dropout_(options_.dropout, heads_q_) {
  const std::int64_t batch = request.q.local().shape()[0];
  if (options_.mask.has_value()) {
    const client::Tensor& mask = options_.mask.local();
    mask_is_bool_ = mask.dtype() == client::DType::kBool;
    mask_ = mask.BroadcastTo({batch, heads_q_, seq_q_, seq_kv_}).ToDoubles();
  }
  if (options_.alibi_slopes.has_value()) {
    slopes_ = options_.alibi_slopes.local().BroadcastTo({batch, heads_q_}).ToDoubles();
  }
  const auto read = [](const client::AnyTensor& numbers, std::vector<double>& values) {
    if (numbers.has_value()) values = numbers.local().ToDoubles();
  };
  read(options_.kv_lengths, kv_lengths_);
  read(options_.cu_seqlens_q, cu_seqlens_q_);
  read(options_.cu_seqlens_kv, cu_seqlens_kv_);
}

void ScoreRules::FindStretches(std::int64_t i, Stretch& rows, Stretch& keys) const {
  rows = {0, seq_q_};
  keys = {0, seq_kv_};
  for (std::size_t d = 0; d + 1 < cu_seqlens_q_.size(); ++d) {
    const auto boundary = [d](const std::vector<double>& starts) {
      return Stretch{static_cast<std::int64_t>(starts[d]),
                     static_cast<std::int64_t>(starts[d + 1])};
    };
    rows = boundary(cu_seqlens_q_);
    keys = boundary(cu_seqlens_kv_);
    if (i < rows.end) return;
  }
}

std::int64_t ScoreRules::Distance(std::int64_t i, std::int64_t j) const {
  Stretch rows, keys;
  FindStretches(i, rows, keys);
  std::int64_t offset = 0;
  if (options_.causal_alignment == client::CausalAlignment::kLowerRight) {
    offset = (keys.end - keys.begin) - (rows.end - rows.begin);
  }
  return i - rows.begin + offset - (j - keys.begin);
}

bool ScoreRules::TakesPart(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
  Stretch rows, keys;
  FindStretches(i, rows, keys);
  if (j < keys.begin || j >= keys.end) return false;
  if (!kv_lengths_.empty() && static_cast<double>(j) >= kv_lengths_[static_cast<std::size_t>(b)]) {
    return false;
  }
  const std::int64_t distance = Distance(i, j);
  if (options_.is_causal && distance < 0) return false;
  if (options_.window.has_value()) {
    const client::Window& window = *options_.window;
    if (window.left.has_value() && distance > *window.left) return false;
    if (window.right.has_value() && -distance > *window.right) return false;
  }
  if (mask_.empty()) return true;
  const double element = MaskElement(b, h, i, j);
  return mask_is_bool_ ? element != 0.0 : element != -std::numeric_limits<double>::infinity();
}

double ScoreRules::Bias(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
  double bias = mask_.empty() || mask_is_bool_ ? 0.0 : MaskElement(b, h, i, j);
  if (!slopes_.empty()) {
    bias -= slopes_[static_cast<std::size_t>(b * heads_q_ + h)] *
            std::fabs(static_cast<double>(Distance(i, j)));
  }
  return bias;
}

double ScoreRules::MaskElement(std::int64_t b, std::int64_t h, std::int64_t i,
                               std::int64_t j) const {
  return mask_[static_cast<std::size_t>(((b * heads_q_ + h) * seq_q_ + i) * seq_kv_ + j)];
}

}  // namespace theria::cli
