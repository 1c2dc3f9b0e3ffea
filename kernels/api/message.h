#ifndef THERIA_KERNELS_API_MESSAGE_H_
#define THERIA_KERNELS_API_MESSAGE_H_

#include <sstream>
#include <string>

// The text of an error. absl::StrCat would serve, were its string_view everywhere that of the
// standard library; Debian 12 builds it with its own.

namespace theria {

template <typename... Parts>
std::string Message(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace theria

#endif  // THERIA_KERNELS_API_MESSAGE_H_
