#ifndef THERIA_CLIENT_CLI_MAML_REPORT_H_
#define THERIA_CLIENT_CLI_MAML_REPORT_H_

#include <string>

#include "client/cli/maml_experiment.h"
#include "nlohmann/json.hpp"

// The two forms in which `theria maml` tells what came out.

namespace theria::cli {

// Tables for people. Of a long outer loop, some twenty steps and the last.
std::string FormatMaml(const std::string& target, const MamlConfig& config,
                       const MamlReport& report);

// Everything; times in seconds.
nlohmann::ordered_json MamlJson(const std::string& target, const MamlConfig& config,
                                const MamlReport& report);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_MAML_REPORT_H_
