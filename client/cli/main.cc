#include <cstdlib>

#include "client/cli/command_line.h"

int main(int argc, char** argv) {
  // The command reports errors itself, in one line; gRPC would log some of them as well.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  return theria::cli::RunCommandLine(argc, argv);
}
