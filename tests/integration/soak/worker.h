#ifndef THERIA_TESTS_INTEGRATION_SOAK_WORKER_H_
#define THERIA_TESTS_INTEGRATION_SOAK_WORKER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "tests/integration/soak/pause.h"
#include "tests/integration/soak/problem.h"
#include "tests/integration/soak/tally.h"
#include "theria/client.h"

// One of the soak's clients: makes calls of all kinds, one after the other, on a connection of its
// own, checks every answer and keeps books. What differs from what must come is a failure; only
// RESOURCE_EXHAUSTED with a retry delay is taken from any attention call.

namespace theria::soak {

// Of tensors that must stay for all of a run: the server's longest.
inline constexpr absl::Duration kLeaseOfTheRun = absl::Hours(24);

// What the clients share. Thread-safe.
struct Shared {
  std::string target;
  std::vector<Problem> problems;
  v1::HvpRequest long_hvp;
  std::string download_handle;             // a large tensor
  std::shared_ptr<grpc::Channel> channel;  // for the calls that are broken off or malformed
  Pause pause;                             // during which `channel` may be replaced
  std::atomic<bool> is_over{false};
  std::atomic<std::uint64_t> calls{0}, failures{0};
};

class Worker {
 public:
  // `shared` must outlive this.
  Worker(Shared& shared, std::uint64_t seed);

  // Makes calls until shared.is_over, then deletes what it left on the server.
  void Run();

  // REQUIRES: Run has returned.
  const Tally& tally() const { return tally_; }
  const std::vector<std::string>& failures() const { return failures_; }  // the first few

 private:
  // Each makes one or a few calls.
  void Attend();          // an operation, q, k and v local or k and v resident
  void AttendResident();  // forward with a resident output, its download and deletion
  void RoundTrip();       // upload, stat, download, delete, stat of what is gone
  void CheckHealth();
  void GetServerInfo();
  void ListOnePage();
  void SendMisfit();      // shapes that do not fit: INVALID_ARGUMENT naming the field
  void SendMalformed();   // bytes that are no message: INVALID_ARGUMENT
  void UseDeleted();      // a handle that is gone: FAILED_PRECONDITION naming it
  void CancelHvp();       // cancelled while it waits or runs
  void OutliveHvp();      // a deadline that it cannot meet
  void CancelDownload();  // cancelled after the first chunk

  void BreakOffHvp(const std::function<void(grpc::ClientContext&)>& prepare,
                   const std::function<void(grpc::ClientContext&)>& intervene);
  bool Connect();  // one health check; attempts that found no connection never came to the server
  bool PutKeys();  // makes k and v of resident_problem_ resident
  client::Tensor RandomTensor();
  int Below(int bound) { return static_cast<int>(random_() % static_cast<unsigned>(bound)); }

  // Books a call; whether its status is `expected`, else a failure.
  bool Book(const Method& method, const absl::Status& status,
            absl::StatusCode expected = absl::StatusCode::kOk);
  // The same for attention, which may be refused; then waits a little.
  bool BookAttention(client::Operation operation, const absl::Status& status,
                     absl::StatusCode expected = absl::StatusCode::kOk);
  void Fail(const std::string& what);

  Shared& shared_;
  std::mt19937_64 random_;
  client::Client client_;
  const Problem* resident_problem_;
  std::vector<client::ResidentTensor> resident_;  // its k and v, once PutKeys was called
  Tally tally_;
  std::vector<std::string> failures_;
};

}  // namespace theria::soak

#endif  // THERIA_TESTS_INTEGRATION_SOAK_WORKER_H_
