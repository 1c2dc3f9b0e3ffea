#ifndef THERIA_CLIENT_CLI_EXIT_CODE_H_
#define THERIA_CLIENT_CLI_EXIT_CODE_H_

namespace theria::cli {

// The exit status of every command. A command is registered by a function
// `void AddXCommand(CLI::App& app, int* exit_code)`, which adds the subcommand and a callback that
// runs it and stores one of these.
enum ExitCode : int {
  kHeld = 0,      // done; every comparison held
  kFailed = 1,    // a comparison failed, or the target is not serving
  kUnusable = 2,  // wrong usage, or a target that cannot be reached or turns the caller away
  kEnded = 3,     // begun, and then ended by an error of a server
};

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_EXIT_CODE_H_
