#include "client/cli/bench/load.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include "absl/time/clock.h"

namespace theria::cli {
namespace {

constexpr std::size_t kStableWindows = 3;
constexpr double kStableShare = 0.1;

// What one thread of load saw in a window.
struct Share {
  std::vector<client::ExecutionInfo> calls;
  absl::Status status;
};

absl::StatusOr<Window> RunWindow(const std::function<absl::StatusOr<client::ExecutionInfo>()>& call,
                                 const LoadOptions& options) {
  std::vector<Share> shares(static_cast<std::size_t>(options.concurrency));
  const absl::Time start = absl::Now();
  const absl::Time end = start + options.window;
  std::vector<std::thread> threads;
  for (Share& share : shares) {
    threads.emplace_back([&] {
      do {
        absl::StatusOr<client::ExecutionInfo> execution = call();
        if (!execution.ok()) {
          share.status = execution.status();
          return;
        }
        share.calls.push_back(*std::move(execution));
      } while (absl::Now() < end);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const absl::Duration length = absl::Now() - start;

  std::vector<client::ExecutionInfo> calls;
  for (Share& share : shares) {
    if (!share.status.ok()) return share.status;
    calls.insert(calls.end(), share.calls.begin(), share.calls.end());
  }
  return Summarize(calls, length);
}

}  // namespace

Percentiles PercentilesOf(std::vector<absl::Duration> durations) {
  std::sort(durations.begin(), durations.end());
  const auto rank = [&](double share) {
    const auto index = static_cast<std::size_t>(std::ceil(share * durations.size()));
    return durations[std::max<std::size_t>(index, 1) - 1];
  };
  return {.p50 = rank(0.50), .p90 = rank(0.90), .p95 = rank(0.95), .p99 = rank(0.99)};
}

Window Summarize(const std::vector<client::ExecutionInfo>& calls, absl::Duration length) {
  Window window{
      .calls = calls.size(),
      .calls_per_second = static_cast<double>(calls.size()) / absl::ToDoubleSeconds(length)};
  std::vector<absl::Duration> latencies;
  for (const client::ExecutionInfo& call : calls) {
    latencies.push_back(call.total_time);
    window.client += call.total_time - call.rpc_time;
    window.network += call.rpc_time - call.queue_time - call.compute_time;
    window.queue += call.queue_time;
    window.compute += call.compute_time;
  }
  const auto count = static_cast<double>(calls.size());
  window.client /= count;
  window.network /= count;
  window.queue /= count;
  window.compute /= count;
  window.latency = PercentilesOf(std::move(latencies));
  return window;
}

bool IsStable(const std::vector<Window>& windows) {
  if (windows.size() < kStableWindows) return false;
  const auto last = windows.end() - kStableWindows;
  const auto steady = [&](const auto& measure) {
    double mean = 0.0;
    for (auto window = last; window != windows.end(); ++window) mean += measure(*window);
    mean /= kStableWindows;
    return std::all_of(last, windows.end(), [&](const Window& window) {
      return std::fabs(measure(window) - mean) <= kStableShare * mean;
    });
  };
  return steady([](const Window& window) { return window.calls_per_second; }) &&
         steady([](const Window& window) { return absl::ToDoubleSeconds(window.latency.p50); });
}

const Window& LoadResult::Representative() const {
  std::vector<const Window*> last;
  for (auto window = windows.rbegin(); window != windows.rend() && last.size() < kStableWindows;
       ++window) {
    last.push_back(&*window);
  }
  std::sort(last.begin(), last.end(),
            [](const Window* a, const Window* b) { return a->latency.p50 < b->latency.p50; });
  return *last[(last.size() - 1) / 2];
}

absl::StatusOr<LoadResult> ApplyLoad(
    const std::function<absl::StatusOr<client::ExecutionInfo>()>& call, const LoadOptions& options,
    const std::function<void(const Window&)>& progress) {
  // The first call connects and warms up; it is not counted.
  const absl::StatusOr<client::ExecutionInfo> warm_up = call();
  if (!warm_up.ok()) return warm_up.status();
  LoadResult result;
  for (int i = 0; i < options.max_windows && !result.stable; ++i) {
    absl::StatusOr<Window> window = RunWindow(call, options);
    if (!window.ok()) return window.status();
    progress(*window);
    result.windows.push_back(*std::move(window));
    result.stable = IsStable(result.windows);
  }
  return result;
}

}  // namespace theria::cli
