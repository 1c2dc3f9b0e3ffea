#ifndef THERIA_CLIENT_CPP_SRC_TEXT_H_
#define THERIA_CLIENT_CPP_SRC_TEXT_H_

#include <sstream>
#include <string>

namespace theria::client {

// The parts, one after the other. absl::StrCat would serve, were absl::string_view everywhere that
// of the standard library; Debian 12 builds it as a type of its own.
template <typename... Parts>
std::string Text(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_TEXT_H_
