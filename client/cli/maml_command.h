#ifndef THERIA_CLIENT_CLI_MAML_COMMAND_H_
#define THERIA_CLIENT_CLI_MAML_COMMAND_H_

#include "CLI/CLI.hpp"

namespace theria::cli {

// `theria maml TARGET [--mode full|fo|fo_strict] [--inner-steps K] [--inner-lr A] ...`: trains the
// tiny attention classifier's initial parameters by meta-learning, with every attention operation
// on the server, and holds its meta-gradient against float64. Fails if it differs or diverges.
void AddMamlCommand(CLI::App& app, int* exit_code);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_MAML_COMMAND_H_
