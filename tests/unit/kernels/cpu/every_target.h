#ifndef THERIA_TESTS_UNIT_KERNELS_CPU_EVERY_TARGET_H_
#define THERIA_TESTS_UNIT_KERNELS_CPU_EVERY_TARGET_H_

#include <gtest/gtest.h>

#include <cstdint>

#include "hwy/targets.h"

namespace theria::cpu {

// Calls `test` once with each instruction set that this machine has, from SSE2 up.
template <typename Test>
void ForEveryTarget(Test test) {
  const std::int64_t all = hwy::SupportedTargets();
  for (std::int64_t left = all; left != 0; left &= left - 1) {
    const std::int64_t target = left & -left;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    SCOPED_TRACE(hwy::TargetName(target));
    test();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

}  // namespace theria::cpu

#endif  // THERIA_TESTS_UNIT_KERNELS_CPU_EVERY_TARGET_H_
