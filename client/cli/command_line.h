#ifndef THERIA_CLIENT_CLI_COMMAND_LINE_H_
#define THERIA_CLIENT_CLI_COMMAND_LINE_H_

namespace theria::cli {

// The `theria` command: parses the arguments, runs the subcommand and gives its ExitCode.
int RunCommandLine(int argc, const char* const* argv);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_COMMAND_LINE_H_
