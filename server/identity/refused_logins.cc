#include "server/identity/refused_logins.h"

#include <utility>

#include "server/cache/monotonic_clock.h"
#include "server/telemetry/log.h"

namespace theria::server {
namespace {

constexpr std::string_view kOthers = "others";

// "ipv4:10.0.0.7" of "ipv4:10.0.0.7:51234"; what has no port stays.
std::string_view HostOf(std::string_view peer) {
  const bool has_port = peer.starts_with("ipv4:") || peer.starts_with("ipv6:");
  return has_port ? peer.substr(0, peer.rfind(':')) : peer;
}

}  // namespace

std::string_view LoginRefusalName(LoginRefusal refusal) {
  switch (refusal) {
    case LoginRefusal::kNoCredentials:
      return "no_credentials";
    case LoginRefusal::kMalformed:
      return "malformed";
    case LoginRefusal::kUnknownToken:
      return "unknown_token";
    case LoginRefusal::kExpiredToken:
      return "expired_token";
    case LoginRefusal::kUnknownCertificate:
      return "unknown_certificate";
  }
  return "unknown";
}

RefusedLogins::RefusedLogins(Clock clock) : clock_(clock ? std::move(clock) : MonotonicNow) {}

void RefusedLogins::Add(LoginRefusal refusal, std::string_view peer, std::string_view whose) {
  counts_[static_cast<std::size_t>(refusal)].fetch_add(1, std::memory_order_relaxed);
  std::string_view host = HostOf(peer);
  {
    const std::lock_guard lock(mutex_);
    if (hosts_.size() >= kMaxHosts && !hosts_.contains(host)) host = kOthers;
    const auto [entry, is_first] = hosts_.try_emplace(std::string(host), Host{clock_()});
    if (!is_first) {
      ++entry->second.followed;
      return;
    }
  }
  LogLine line(spdlog::level::warn, "login refused");
  line.Add("host", host).Add("reason", LoginRefusalName(refusal));
  if (!whose.empty()) line.Add("whose", whose);
}

void RefusedLogins::TellWhatFollowed() {
  const std::lock_guard lock(mutex_);
  const absl::Duration now = clock_();
  for (auto entry = hosts_.begin(); entry != hosts_.end();) {
    Host& host = entry->second;
    if (now - host.told_at < kInterval) {
      ++entry;
    } else if (host.followed == 0) {
      entry = hosts_.erase(entry);
    } else {
      LogLine(spdlog::level::warn, "logins refused")
          .Add("host", entry->first)
          .Add("times", host.followed)
          .Add("seconds", absl::ToDoubleSeconds(now - host.told_at));
      host = {now};
      ++entry;
    }
  }
}

}  // namespace theria::server
