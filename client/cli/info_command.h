#ifndef THERIA_CLIENT_CLI_INFO_COMMAND_H_
#define THERIA_CLIENT_CLI_INFO_COMMAND_H_

#include <string>

#include "CLI/CLI.hpp"
#include "nlohmann/json.hpp"
#include "theria/server_info.h"

namespace theria::cli {

// `theria info TARGET [--json FILE]`: what a server is and what it supports.
void AddInfoCommand(CLI::App& app, int* exit_code);

// The description as text for people and as JSON.
std::string FormatInfo(const std::string& target, const client::ServerInfo& info);
nlohmann::ordered_json InfoJson(const std::string& target, const client::ServerInfo& info);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_INFO_COMMAND_H_
