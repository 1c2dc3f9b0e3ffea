#include "client/cpp/src/target.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "client/cpp/src/status_codec.h"

namespace theria::client {
namespace {

constexpr std::uint32_t kMaxPort = 65535;

// Colons within a host are those of an IPv6 address, in brackets, in a URI perhaps escaped.
bool IsHost(absl::string_view text) {
  const bool is_bracketed =
      (absl::StartsWith(text, "[") && absl::EndsWith(text, "]")) ||
      (absl::StartsWithIgnoreCase(text, "%5B") && absl::EndsWithIgnoreCase(text, "%5D"));
  return is_bracketed || !(text.empty() || absl::StrContains(text, ":"));
}

absl::Status CheckAddress(absl::string_view address, const std::string& target) {
  const std::size_t colon = std::min(address.rfind(':'), address.size());
  const absl::string_view host = address.substr(0, colon);
  const absl::string_view port = absl::ClippedSubstr(address, colon + 1);
  if (!IsHost(host) || port.empty() ||
      !std::all_of(port.begin(), port.end(), absl::ascii_isdigit)) {
    return InvalidField("target", absl::StrCat("is '", target, "', must be host:port such as ",
                                               "localhost:50051 or [::1]:50051, or unix:PATH"));
  }
  std::uint32_t value = 0;
  if (absl::SimpleAtoi(port, &value) && value <= kMaxPort) return absl::OkStatus();
  return InvalidField("target", absl::StrCat(target, " has the port ", port, ", over ", kMaxPort));
}

}  // namespace

absl::Status CheckTarget(const std::string& target) {
  absl::string_view rest = target;
  for (const char* scheme : {"unix:", "unix-abstract:", "vsock:", "xds:"}) {
    if (absl::StartsWith(rest, scheme)) return absl::OkStatus();
  }
  std::vector<absl::string_view> addresses = {rest};
  if (absl::ConsumePrefix(&rest, "dns:") || absl::ConsumePrefix(&rest, "ipv4:") ||
      absl::ConsumePrefix(&rest, "ipv6:")) {
    // Between // and the next slash stands who resolves the name.
    if (absl::StartsWith(rest, "//")) rest = absl::ClippedSubstr(rest, rest.find('/', 2) + 1);
    addresses = absl::StrSplit(rest, ',');
  }
  for (const absl::string_view address : addresses) {
    if (absl::Status checked = CheckAddress(address, target); !checked.ok()) return checked;
  }
  return absl::OkStatus();
}

}  // namespace theria::client
