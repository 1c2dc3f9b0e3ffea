#include "client/cli/bench/bench_report.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/cli/table.h"
#include "client/cli/units.h"

namespace theria::cli {
namespace {

constexpr Align kRight = Align::kRight;

nlohmann::ordered_json WindowJson(const Window& window) {
  const auto seconds = [](absl::Duration duration) { return absl::ToDoubleSeconds(duration); };
  return {{"calls", window.calls},
          {"calls_per_second", window.calls_per_second},
          {"latency_seconds",
           {{"p50", seconds(window.latency.p50)},
            {"p90", seconds(window.latency.p90)},
            {"p95", seconds(window.latency.p95)},
            {"p99", seconds(window.latency.p99)}}},
          {"mean_seconds",
           {{"client", seconds(window.client)},
            {"network", seconds(window.network)},
            {"queue", seconds(window.queue)},
            {"compute", seconds(window.compute)}}}};
}

}  // namespace

std::string FormatBench(const std::vector<BenchResult>& results) {
  Table device({{"operation"},
                {"kernel"},
                {"device"},
                {"median", kRight},
                {"fastest", kRight},
                {"slowest", kRight},
                {"rate", kRight},
                {"inputs, outputs", kRight}});
  Table load({{"operation"},
              {"calls/s", kRight},
              {"p50", kRight},
              {"p90", kRight},
              {"p95", kRight},
              {"p99", kRight},
              {"client", kRight},
              {"network", kRight},
              {"queue", kRight},
              {"compute", kRight},
              {""}});
  for (const BenchResult& result : results) {
    const std::string operation(client::OperationName(result.operation));
    const client::BenchmarkResult& timed = result.device;
    const auto [fastest, slowest] = std::minmax_element(timed.times.begin(), timed.times.end());
    device.AddRow({operation, timed.execution.kernel, timed.execution.device,
                   cli::FormatDuration(timed.median_time),
                   timed.times.empty() ? "" : cli::FormatDuration(*fastest),
                   timed.times.empty() ? "" : cli::FormatDuration(*slowest),
                   FormatFlops(timed.flops_per_second), FormatBytes(timed.bytes)});
    const Window& window = result.load.Representative();
    load.AddRow({operation, absl::StrFormat("%.1f", window.calls_per_second),
                 cli::FormatDuration(window.latency.p50), cli::FormatDuration(window.latency.p90),
                 cli::FormatDuration(window.latency.p95), cli::FormatDuration(window.latency.p99),
                 cli::FormatDuration(window.client), cli::FormatDuration(window.network),
                 cli::FormatDuration(window.queue), cli::FormatDuration(window.compute),
                 result.load.stable ? "" : "unstable"});
  }
  return "on the device\n" + device.ToString() +
         "\nfrom the client: latency of a call, and where the mean call's time goes\n" +
         load.ToString();
}

nlohmann::ordered_json BenchJson(const std::vector<BenchResult>& results) {
  nlohmann::ordered_json operations = nlohmann::ordered_json::array();
  for (const BenchResult& result : results) {
    const client::BenchmarkResult& timed = result.device;
    nlohmann::ordered_json times = nlohmann::ordered_json::array();
    for (const absl::Duration time : timed.times) times.push_back(absl::ToDoubleSeconds(time));
    nlohmann::ordered_json windows = nlohmann::ordered_json::array();
    for (const Window& window : result.load.windows) windows.push_back(WindowJson(window));
    operations.push_back(
        {{"operation", client::OperationName(result.operation)},
         {"device",
          {{"kernel", timed.execution.kernel},
           {"device", timed.execution.device},
           {"implementation", client::ImplementationName(timed.execution.implementation)},
           {"seconds", std::move(times)},
           {"median_seconds", absl::ToDoubleSeconds(timed.median_time)},
           {"flops", timed.flops},
           {"flops_per_second", timed.flops_per_second},
           {"bytes", timed.bytes}}},
         {"client", {{"stable", result.load.stable}, {"windows", std::move(windows)}}}});
  }
  return operations;
}

}  // namespace theria::cli
