#ifndef THERIA_SERVER_CACHE_MONOTONIC_CLOCK_H_
#define THERIA_SERVER_CACHE_MONOTONIC_CLOCK_H_

#include <algorithm>
#include <chrono>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace theria::server {

// Time since a moment of no meaning, which setting the date does not move.
inline absl::Duration MonotonicNow() {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

// The time for deadlines: the date as it was when this was first asked, and the time since. As
// absl::Now(), until the date is set.
inline absl::Time SteadyNow() {
  static const absl::Time start = absl::Now() - MonotonicNow();
  return start + MonotonicNow();
}

// When a moment comes that lies as far from absl::Now() as `date` does now.
inline absl::Time SteadyTime(absl::Time date) { return SteadyNow() + (date - absl::Now()); }

// From SteadyNow() to `end`, for wait_for: at most a year, which it can add to any time.
inline std::chrono::nanoseconds TimeUntil(absl::Time end) {
  return absl::ToChronoNanoseconds(
      std::clamp(end - SteadyNow(), absl::ZeroDuration(), absl::Hours(24 * 366)));
}

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_MONOTONIC_CLOCK_H_
