#ifndef THERIA_CLIENT_CLI_PARITY_COMMAND_H_
#define THERIA_CLIENT_CLI_PARITY_COMMAND_H_

#include "CLI/CLI.hpp"

namespace theria::cli {

// `theria parity TARGET [--reference TARGET] [--suite quick|full] [--json FILE]`: compares all that
// the target lists with explicit float64 attention in this process, or with the reference server,
// and with itself by identities.
void AddParityCommand(CLI::App& app, int* exit_code);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_COMMAND_H_
