#ifndef THERIA_CLIENT_CLI_BENCH_BENCH_REPORT_H_
#define THERIA_CLIENT_CLI_BENCH_BENCH_REPORT_H_

#include <string>
#include <vector>

#include "client/cli/bench/load.h"
#include "nlohmann/json.hpp"
#include "theria/server_info.h"

namespace theria::cli {

// What was measured of one operation.
struct BenchResult {
  client::Operation operation = client::Operation::kForward;
  client::BenchmarkResult device;  // by the server itself
  LoadResult load;                 // from here
};

// Two tables: the device's times, and the client's latencies with where they go.
std::string FormatBench(const std::vector<BenchResult>& results);

nlohmann::ordered_json BenchJson(const std::vector<BenchResult>& results);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_BENCH_BENCH_REPORT_H_
