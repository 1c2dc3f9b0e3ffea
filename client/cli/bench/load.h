#ifndef THERIA_CLIENT_CLI_BENCH_LOAD_H_
#define THERIA_CLIENT_CLI_BENCH_LOAD_H_

#include <cstddef>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "theria/attention.h"

// Load from the client's side: calls in windows, until throughput and latency are stable.

namespace theria::cli {

struct Percentiles {
  absl::Duration p50, p90, p95, p99;
};

// By nearest rank. REQUIRES: `durations` is not empty.
Percentiles PercentilesOf(std::vector<absl::Duration> durations);

// One window: all calls that ended in it.
struct Window {
  std::size_t calls = 0;
  double calls_per_second = 0.0;
  Percentiles latency;  // of the whole call as the caller sees it
  // Where the mean call's time went: client (conversions), network (with gRPC, both ways), the
  // server's queue, computation.
  absl::Duration client, network, queue, compute;
};

struct LoadOptions {
  int concurrency = 1;
  absl::Duration window = absl::Seconds(1);  // at least; every window has one call at least
  int max_windows = 10;
};

struct LoadResult {
  std::vector<Window> windows;
  bool stable = false;  // the last three differ from their mean by at most a tenth

  // The window of median latency among the last three. REQUIRES: a window.
  const Window& Representative() const;
};

// Summarises the executions of calls that ended in a window of that length.
Window Summarize(const std::vector<client::ExecutionInfo>& calls, absl::Duration length);

bool IsStable(const std::vector<Window>& windows);

// Repeats `call` from `concurrency` threads; `progress` is called after each window.
// Errors: the first error of a call.
absl::StatusOr<LoadResult> ApplyLoad(
    const std::function<absl::StatusOr<client::ExecutionInfo>()>& call, const LoadOptions& options,
    const std::function<void(const Window&)>& progress);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_BENCH_LOAD_H_
