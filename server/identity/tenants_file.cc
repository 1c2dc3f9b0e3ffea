#include "server/identity/tenants_file.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "kernels/api/message.h"
#include "nlohmann/json.hpp"

namespace theria::server {
namespace {

using Json = nlohmann::json;

constexpr double kMaxCount = 1e15;
// A file that is right has five levels. The library copies values by recursion, which a file of
// brackets alone would take through the stack.
constexpr int kMaxDepth = 8;
constexpr std::size_t kMaxReasonBytes = 200;  // of the library's, which quotes the file

absl::Status Wrong(std::string_view where, std::string_view what) {
  return absl::InvalidArgumentError(Message(where, " ", what));
}

// Refuses what is nested too deeply, and an object that has a key twice, of which the library would
// keep the last one silently.
absl::StatusOr<Json> ParseJson(std::string_view json) {
  struct Object {
    std::set<std::string> keys;
    std::string key;  // whose value comes
  };
  std::vector<Object> path;
  std::string twice;
  bool is_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    is_deep = is_deep || depth > kMaxDepth;
    if (is_deep) return false;  // drops the value and all in it
    if (event == Json::parse_event_t::object_start) path.emplace_back();
    if (event == Json::parse_event_t::object_end) path.pop_back();
    if (event == Json::parse_event_t::key) {
      Object& object = path.back();
      object.key = value.get<std::string>();
      if (!object.keys.insert(object.key).second && twice.empty()) {
        for (const Object& outer : path) twice += (twice.empty() ? "" : ".") + outer.key;
      }
    }
    return true;
  };
  try {
    Json document = Json::parse(json, watch);
    if (is_deep) return Wrong("the file", Message("is nested more than ", kMaxDepth, " deep"));
    if (!twice.empty()) return Wrong(twice, "stands there twice");
    return document;
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 2, column 5: ..." or, of a number that
    // no double holds, "[json.exception.out_of_range.406] number overflow parsing '1e400'"
    const std::string_view what = error.what();
    return Wrong("the file",
                 Message("is no JSON: ", what.substr(what.find("] ") + 2, kMaxReasonBytes)));
  }
}

absl::Status CheckKeys(const Json& object, std::string_view where,
                       const std::set<std::string_view>& allowed) {
  if (!object.is_object()) return Wrong(where, "must be an object");
  for (const auto& [key, value] : object.items()) {
    if (!allowed.contains(key)) return Wrong(Message(where, ".", key), "is no known key");
  }
  return absl::OkStatus();
}

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

// Reads object[key], if it is there, into `value`: a number from `low` on.
absl::Status ReadNumber(const Json& object, const std::string& where, const char* key, double low,
                        double& value) {
  const auto found = object.find(key);
  if (found == object.end()) return absl::OkStatus();
  if (found->is_number()) {
    value = found->get<double>();
    if (value >= low && value <= kMaxCount) return absl::OkStatus();
  }
  return Wrong(Message(where, ".", key), Message("must be a number of at least ", low));
}

absl::Status ReadCount(const Json& object, const std::string& where, const char* key,
                       std::size_t& value) {
  double number = 0;
  if (!object.contains(key)) return absl::OkStatus();
  if (absl::Status read = ReadNumber(object, where, key, 1, number); !read.ok()) return read;
  if (number != std::floor(number)) return Wrong(Message(where, ".", key), "must be whole");
  value = static_cast<std::size_t>(number);
  return absl::OkStatus();
}

absl::Status ReadBytes(const Json& object, const std::string& where, const char* key,
                       std::size_t& value) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_number()) return ReadCount(object, where, key, value);
  constexpr std::pair<std::string_view, int> kUnits[] = {
      {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
  if (found->is_string()) {
    const auto& text = found->get_ref<const std::string&>();
    for (const auto& [unit, shift] : kUnits) {
      std::uint64_t count = 0;
      if (!text.ends_with(unit)) continue;
      if (absl::SimpleAtoi(text.substr(0, text.size() - unit.size()), &count) && count > 0 &&
          count <= (std::uint64_t{1} << (50 - shift))) {
        value = count << shift;
        return absl::OkStatus();
      }
    }
  }
  return Wrong(Message(where, ".", key), "must be bytes, as 1048576 or \"4GiB\"");
}

absl::StatusOr<TokenEntry> ReadToken(const Json& object, const std::string& where) {
  if (absl::Status keys = CheckKeys(object, where, {"sha256", "expires"}); !keys.ok()) return keys;
  TokenEntry token;
  const std::string digits = object.value("sha256", Json()).is_string()
                                 ? object["sha256"].get<std::string>()
                                 : std::string();
  const bool is_hex = digits.size() == 2 * token.sha256.size() &&
                      digits.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
  if (!is_hex) return Wrong(Message(where, ".sha256"), "must be 64 hexadecimal digits");
  const std::string bytes = absl::HexStringToBytes(digits);
  std::copy(bytes.begin(), bytes.end(), token.sha256.begin());
  if (const auto expires = object.find("expires"); expires != object.end()) {
    std::string error;
    if (!expires->is_string() ||
        !absl::ParseTime(absl::RFC3339_full, expires->get<std::string>(), &token.expires, &error)) {
      return Wrong(Message(where, ".expires"), "must be a time as 2027-01-31T00:00:00Z");
    }
  }
  return token;
}

absl::Status ReadIdentities(const Json& object, const std::string& where, TenantEntry& tenant) {
  const Json tokens = object.value("tokens", Json::array());
  const Json certificates = object.value("certificates", Json::array());
  if (!tokens.is_array()) return Wrong(Message(where, ".tokens"), "must be a list");
  if (!certificates.is_array()) return Wrong(Message(where, ".certificates"), "must be a list");
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    absl::StatusOr<TokenEntry> token = ReadToken(tokens[i], Message(where, ".tokens[", i, "]"));
    if (!token.ok()) return token.status();
    tenant.tokens.push_back(*token);
  }
  for (const Json& name : certificates) {
    if (!name.is_string() || name.get_ref<const std::string&>().empty()) {
      return Wrong(Message(where, ".certificates"), "must be names");
    }
    tenant.certificates.push_back(name.get<std::string>());
  }
  if (tenant.tokens.empty() && tenant.certificates.empty()) {
    return Wrong(where, "has neither tokens nor certificates: nobody could be this tenant");
  }
  return absl::OkStatus();
}

absl::StatusOr<TenantEntry> ReadTenant(const std::string& name, const Json& object) {
  const std::string where = Message("tenants.", name);
  if (!IsName(name)) return Wrong(where, "is no name: 1 to 64 of a-z, A-Z, 0-9, '-', '_', '.'");
  absl::Status status =
      CheckKeys(object, where,
                {"tokens", "certificates", "store_bytes", "queued_requests", "queued_bytes",
                 "requests_per_second", "burst_requests", "weight"});
  if (!status.ok()) return status;
  TenantEntry tenant;
  tenant.name = name;
  AccountLimits& limits = tenant.limits;
  status.Update(ReadIdentities(object, where, tenant));
  status.Update(ReadBytes(object, where, "store_bytes", limits.quota_bytes));
  status.Update(ReadCount(object, where, "queued_requests", limits.max_queued_requests));
  status.Update(ReadBytes(object, where, "queued_bytes", limits.max_queued_bytes));
  status.Update(ReadNumber(object, where, "requests_per_second", 1e-6, limits.requests_per_second));
  limits.burst_requests = std::max(1.0, limits.requests_per_second);
  status.Update(ReadNumber(object, where, "burst_requests", 1, limits.burst_requests));
  status.Update(ReadNumber(object, where, "weight", 1e-3, limits.weight));
  if (!status.ok()) return status;
  return tenant;
}

// Each token and each certificate proves one tenant.
absl::Status CheckDistinct(const std::vector<TenantEntry>& tenants) {
  std::set<Sha256Digest> tokens;
  std::set<std::string_view> certificates;
  for (const TenantEntry& tenant : tenants) {
    for (const TokenEntry& token : tenant.tokens) {
      if (!tokens.insert(token.sha256).second) {
        return Wrong(Message("tenants.", tenant.name, ".tokens"), "has one that came before");
      }
    }
    for (const std::string& name : tenant.certificates) {
      if (!certificates.insert(name).second) {
        return Wrong(Message("tenants.", tenant.name, ".certificates"), "has one that came before");
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TenantEntry>> ParseTenants(std::string_view json) {
  absl::StatusOr<Json> parsed = ParseJson(json);
  if (!parsed.ok()) return parsed.status();
  const Json& document = *parsed;
  if (absl::Status keys = CheckKeys(document, "the file", {"tenants"}); !keys.ok()) return keys;
  if (!document.contains("tenants") || !document["tenants"].is_object() ||
      document["tenants"].empty() || document["tenants"].size() > kMaxTenants) {
    return Wrong("tenants", Message("must be an object of 1 to ", kMaxTenants, " tenants"));
  }
  std::vector<TenantEntry> tenants;
  for (const auto& [name, object] : document["tenants"].items()) {
    absl::StatusOr<TenantEntry> tenant = ReadTenant(name, object);
    if (!tenant.ok()) return tenant.status();
    tenants.push_back(*std::move(tenant));
  }
  if (absl::Status distinct = CheckDistinct(tenants); !distinct.ok()) return distinct;
  return tenants;
}

}  // namespace theria::server
