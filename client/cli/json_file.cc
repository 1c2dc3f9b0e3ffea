#include "client/cli/json_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>

namespace theria::cli {

bool WriteJson(const nlohmann::ordered_json& document, const std::string& path) {
  if (path == "-") {
    std::cout << document.dump(2) << "\n";
    return true;
  }
  std::ofstream file(path);
  file << document.dump(2) << "\n";
  file.close();
  if (file) return true;
  std::fprintf(stderr, "theria: %s: cannot be written: %s\n", path.c_str(), std::strerror(errno));
  return false;
}

}  // namespace theria::cli
