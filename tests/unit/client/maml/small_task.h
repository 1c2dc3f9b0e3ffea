#ifndef THERIA_TESTS_UNIT_CLIENT_MAML_SMALL_TASK_H_
#define THERIA_TESTS_UNIT_CLIENT_MAML_SMALL_TASK_H_

#include "theria/maml_task.h"

namespace theria::maml {

// Small enough for the scalar oracle, with all sizes different.
inline constexpr TaskSpec kSmallSpec = {
    .support = 6, .query = 5, .length = 4, .d_model = 7, .classes = 3, .signal_positions = 2};

// Some vector of `size` normal-like numbers.
inline Vector SomeDirection(Eigen::Index size, int seed) {
  Vector direction(size);
  for (Eigen::Index i = 0; i < size; ++i) {
    direction[i] = std::sin(1.7 * static_cast<double>(i + 1) * (seed + 1));
  }
  return direction;
}

inline double RelativeDifference(const Matrix& actual, const Matrix& expected) {
  return (actual - expected).norm() / expected.norm();
}

}  // namespace theria::maml

#endif  // THERIA_TESTS_UNIT_CLIENT_MAML_SMALL_TASK_H_
