#ifndef THERIA_SERVER_CACHE_MONOTONIC_CLOCK_H_
#define THERIA_SERVER_CACHE_MONOTONIC_CLOCK_H_

#include <chrono>

#include "absl/time/time.h"

namespace theria::server {

// Time since a moment of no meaning, which setting the date does not move.
inline absl::Duration MonotonicNow() {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_MONOTONIC_CLOCK_H_
