#include "server/telemetry/trace_context.h"

#include <algorithm>
#include <cstddef>

namespace theria::server {
namespace {

constexpr std::size_t kVersionDigits = 2;
constexpr std::size_t kTraceDigits = 32;
constexpr std::size_t kParentDigits = 16;
constexpr std::size_t kFlagDigits = 2;

// Takes `digits` lower-case hexadecimal digits off the front of `text`; empty if there are fewer.
std::string_view TakeHex(std::string_view& text, std::size_t digits) {
  const std::string_view taken = text.substr(0, digits);
  if (taken.size() < digits ||
      taken.find_first_not_of("0123456789abcdef") != std::string_view::npos) {
    return {};
  }
  text.remove_prefix(digits);
  return taken;
}

bool TakeDash(std::string_view& text) {
  const bool is_dash = text.starts_with('-');
  if (is_dash) text.remove_prefix(1);
  return is_dash;
}

bool IsZero(std::string_view digits) {
  return std::all_of(digits.begin(), digits.end(), [](char digit) { return digit == '0'; });
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(std::string_view traceparent) {
  std::string_view rest = traceparent;
  const std::string_view version = TakeHex(rest, kVersionDigits);
  if (version.empty() || version == "ff" || !TakeDash(rest)) return std::nullopt;
  const std::string_view trace = TakeHex(rest, kTraceDigits);
  if (IsZero(trace) || !TakeDash(rest)) return std::nullopt;
  const std::string_view parent = TakeHex(rest, kParentDigits);
  if (IsZero(parent) || !TakeDash(rest)) return std::nullopt;
  const std::string_view flags = TakeHex(rest, kFlagDigits);
  const bool is_end = version == "00" ? rest.empty() : rest.empty() || rest.front() == '-';
  if (flags.empty() || !is_end) return std::nullopt;
  const bool is_sampled = std::string_view("13579bdf").find(flags.back()) != std::string_view::npos;
  return TraceContext{std::string(trace), std::string(parent), is_sampled};
}

}  // namespace theria::server
