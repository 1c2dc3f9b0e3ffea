#ifndef THERIA_TESTS_INTEGRATION_SOAK_TALLY_H_
#define THERIA_TESTS_INTEGRATION_SOAK_TALLY_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "tests/integration/soak/scrape.h"

// The clients' own books of the calls that they made, and their comparison with the server's
// metrics. Not thread-safe: each client keeps its own, and they are added up at the end.

namespace theria::soak {

// A method as the metrics name it.
struct Method {
  std::string_view service;  // "theria.v1.AttentionService"
  std::string_view name;     // "Forward"
  friend auto operator<=>(const Method&, const Method&) = default;
};

inline constexpr Method kForward = {"theria.v1.AttentionService", "Forward"};
inline constexpr Method kVjp = {"theria.v1.AttentionService", "Vjp"};
inline constexpr Method kJvp = {"theria.v1.AttentionService", "Jvp"};
inline constexpr Method kHvp = {"theria.v1.AttentionService", "Hvp"};
inline constexpr Method kUpload = {"theria.v1.TensorService", "Upload"};
inline constexpr Method kDownload = {"theria.v1.TensorService", "Download"};
inline constexpr Method kStat = {"theria.v1.TensorService", "Stat"};
inline constexpr Method kList = {"theria.v1.TensorService", "List"};
inline constexpr Method kDelete = {"theria.v1.TensorService", "Delete"};
inline constexpr Method kGetServerInfo = {"theria.v1.ServerService", "GetServerInfo"};
inline constexpr Method kHealthCheck = {"grpc.health.v1.Health", "Check"};

// Calls of one method.
struct MethodTally {
  // Whose status came from the server, by its code: the server counted exactly these.
  std::map<absl::StatusCode, std::uint64_t> answered;

  // Broken off by the client, so that the server may have ended them in several ways: certainly
  // begun there, or perhaps never arrived.
  std::uint64_t broken_off_there = 0;
  std::uint64_t broken_off_perhaps = 0;

  std::uint64_t calls() const;
};

class Tally {
 public:
  void Answered(const Method& method, absl::StatusCode code) { ++methods_[method].answered[code]; }
  void BrokenOffThere(const Method& method) { ++methods_[method].broken_off_there; }
  void BrokenOffPerhaps(const Method& method) { ++methods_[method].broken_off_perhaps; }

  void Add(const Tally& other);
  std::uint64_t calls() const;
  std::uint64_t answered(absl::StatusCode code) const;  // over all methods
  const std::map<Method, MethodTally>& methods() const { return methods_; }

 private:
  std::map<Method, MethodTally> methods_;
};

// "OK", "InvalidArgument": the label grpc_code.
std::string CodeLabel(absl::StatusCode code);

// The gauges that are zero when no call is under way and every tensor was deleted.
inline constexpr const char* kIdleGauges[] = {"theria_queue_depth", "theria_running_requests",
                                              "theria_accepted_bytes", "theria_store_entries",
                                              "theria_store_bytes"};

// Whether every call that the server counts as started has ended, and, for IsQuiet, all kIdleGauges
// are zero. A call's last buffers may go a moment after its answer.
bool AllEnded(const Metrics& metrics);
bool IsQuiet(const Metrics& metrics);

// Where metrics and books differ, one sentence each; none if the metrics add up:
//
//   handled{method,code} = answered{method,code}, for every code that breaking off cannot cause
//   sum of handled over the codes that it can = answered + broken off there + part of `perhaps`
//   handled{method,code} >= answered{method,code} for those
//   started{method} = sum of handled{method} = count of the latency histogram{method}
//   no metric of a method that was never called
//   compute_seconds counts{op} = handled{op,OK}, or more where calls were broken off
std::vector<std::string> Audit(const Tally& tally, const Metrics& metrics);

}  // namespace theria::soak

#endif  // THERIA_TESTS_INTEGRATION_SOAK_TALLY_H_
