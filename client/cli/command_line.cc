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
  CLI::App app("Attention and its exact first and second derivatives, as a service", "theria");
  // Checked after what was not expected, which is then named.
  app.callback([&app] {
    if (app.get_subcommands().empty()) throw CLI::RequiredError("A subcommand");
  });
  app.footer(
      "TARGET is host:port or unix:PATH.\n"
      "Exit status: 0 held; 1 a comparison failed, or not serving; 2 wrong usage or unreachable;\n"
      "3 begun, and then ended by an error of a server.");
  int exit_code = kHeld;
  AddInfoCommand(app, &exit_code);
  AddHealthCommand(app, &exit_code);
  AddParityCommand(app, &exit_code);
  AddMamlCommand(app, &exit_code);
  AddBenchCommand(app, &exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Asking for help ends with 0; all else is wrong usage.
    return app.exit(error) == 0 ? kHeld : kUnusable;
  }
  return exit_code;
}

}  // namespace theria::cli
