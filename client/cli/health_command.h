#ifndef THERIA_CLIENT_CLI_HEALTH_COMMAND_H_
#define THERIA_CLIENT_CLI_HEALTH_COMMAND_H_

#include "CLI/CLI.hpp"

namespace theria::cli {

// `theria health TARGET [--service NAME]`: for probes; needs no token. Held: it accepts calls.
void AddHealthCommand(CLI::App& app, int* exit_code);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_HEALTH_COMMAND_H_
