#include "client/cli/command_line.h"

#include "CLI/CLI.hpp"
#include "client/cli/bench_command.h"
#include "client/cli/exit_code.h"
#include "client/cli/health_command.h"
#include "client/cli/info_command.h"
#include "client/cli/maml_command.h"
#include "client/cli/parity_command.h"

namespace theria::cli {

int RunCommandLine(int argc, const char* const* argv) {
  CLI::App app("Checks and measures a server of attention and its exact derivatives", "theria");
  app.set_version_flag("--version", THERIA_VERSION);
  // Checked after unexpected arguments, so that the error names those.
  app.callback([&app] {
    if (app.get_subcommands().empty()) throw CLI::RequiredError("A subcommand");
  });
  app.footer(
      "TARGET is host:port or unix:PATH.\n"
      "Exit status: 0 success; 1 a comparison failed, or the target is not serving; 2 wrong usage, "
      "or\n"
      "the target is unreachable; 3 a server's error ended a run that had started.");
  int exit_code = kHeld;
  AddInfoCommand(app, &exit_code);
  AddHealthCommand(app, &exit_code);
  AddParityCommand(app, &exit_code);
  AddMamlCommand(app, &exit_code);
  AddBenchCommand(app, &exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // --help and --version end with 0, everything else is wrong usage.
    return app.exit(error) == 0 ? kHeld : kUnusable;
  }
  return exit_code;
}

}  // namespace theria::cli
