#include "client/cli/target.h"

#include <cstdio>
#include <utility>

namespace theria::cli {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(10);

}  // namespace

std::optional<Target> OpenTarget(const std::string& name) {
  Target target;
  target.name = name;
  target.client = std::make_unique<client::Client>(name);
  absl::StatusOr<client::ServerInfo> info =
      target.client->GetServerInfo({.timeout = kConnectTimeout});
  if (!info.ok()) {
    PrintError(name, "cannot be reached", info.status());
    return std::nullopt;
  }
  target.info = *std::move(info);
  return target;
}

void PrintError(const std::string& name, const std::string& what, const absl::Status& status) {
  std::fprintf(stderr, "theria: %s: %s: %s\n", name.c_str(), what.c_str(),
               std::string(status.ToString(absl::StatusToStringMode::kWithNoExtraData)).c_str());
}

}  // namespace theria::cli
