#ifndef THERIA_CLIENT_CLI_JSON_FILE_H_
#define THERIA_CLIENT_CLI_JSON_FILE_H_

#include <string>

#include "nlohmann/json.hpp"

namespace theria::cli {

// Writes `document` to the file, indented; "-" is standard output. On failure says so on stderr and
// returns false. Numbers that JSON cannot hold (NaN, infinities) become null.
bool WriteJson(const nlohmann::ordered_json& document, const std::string& path);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_JSON_FILE_H_
