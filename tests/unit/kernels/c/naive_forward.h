#ifndef THERIA_TESTS_UNIT_KERNELS_C_NAIVE_FORWARD_H_
#define THERIA_TESTS_UNIT_KERNELS_C_NAIVE_FORWARD_H_

#include <cmath>
#include <cstdint>
#include <vector>

// Attention of one batch entry and one head by its definition, in float64.

inline std::vector<double> NaiveForward(const std::vector<double>& q, const std::vector<double>& k,
                                        const std::vector<double>& v, std::int64_t seq,
                                        std::int64_t dim, bool is_causal) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  std::vector<double> o(q.size(), 0.0);
  for (std::int64_t i = 0; i < seq; ++i) {
    const std::int64_t keys = is_causal ? i + 1 : seq;
    std::vector<double> weights(static_cast<std::size_t>(keys));
    double sum = 0.0;
    for (std::int64_t j = 0; j < keys; ++j) {
      double score = 0.0;
      for (std::int64_t d = 0; d < dim; ++d) score += q[i * dim + d] * k[j * dim + d];
      weights[j] = std::exp(scale * score);
      sum += weights[j];
    }
    for (std::int64_t j = 0; j < keys; ++j) {
      for (std::int64_t d = 0; d < dim; ++d) o[i * dim + d] += weights[j] / sum * v[j * dim + d];
    }
  }
  return o;
}

#endif  // THERIA_TESTS_UNIT_KERNELS_C_NAIVE_FORWARD_H_
