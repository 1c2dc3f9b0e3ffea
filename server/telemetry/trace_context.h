#ifndef THERIA_SERVER_TELEMETRY_TRACE_CONTEXT_H_
#define THERIA_SERVER_TELEMETRY_TRACE_CONTEXT_H_

#include <optional>
#include <string>
#include <string_view>

// The trace that a caller's request belongs to, as W3C's Trace Context (level 1, section 3.2)
// writes it in `traceparent`:
//
//   00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//   version, trace, the caller's span, flags (bit 0: sampled)

namespace theria::server {

struct TraceContext {
  std::string trace_id;   // 32 lower-case hexadecimal digits, not all zero
  std::string parent_id;  // 16 of them, likewise: the caller's span
  bool is_sampled = false;
};

// Nothing if `traceparent` is not well-formed: the standard wants it ignored then. Of versions to
// come, the part that they share with version 00 is read.
std::optional<TraceContext> ParseTraceparent(std::string_view traceparent);

}  // namespace theria::server

#endif  // THERIA_SERVER_TELEMETRY_TRACE_CONTEXT_H_
