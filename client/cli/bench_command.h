#ifndef THERIA_CLIENT_CLI_BENCH_COMMAND_H_
#define THERIA_CLIENT_CLI_BENCH_COMMAND_H_

#include "CLI/CLI.hpp"

namespace theria::cli {

// `theria bench TARGET [--preset NAME] [--json FILE]`: the four operations by the device's own
// clock, and the latency and throughput that a client sees.
void AddBenchCommand(CLI::App& app, int* exit_code);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_BENCH_COMMAND_H_
