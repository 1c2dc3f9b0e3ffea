#ifndef THERIA_TESTS_FUZZ_EXPECT_H_
#define THERIA_TESTS_FUZZ_EXPECT_H_

#include <cstdio>
#include <cstdlib>

// Ends the process if `condition` does not hold: a finding.
#define THERIA_FUZZ_EXPECT(condition)                                                     \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                       \
    }                                                                                     \
  } while (false)

#endif  // THERIA_TESTS_FUZZ_EXPECT_H_
