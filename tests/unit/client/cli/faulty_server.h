#ifndef THERIA_TESTS_UNIT_CLIENT_CLI_FAULTY_SERVER_H_
#define THERIA_TESTS_UNIT_CLIENT_CLI_FAULTY_SERVER_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "tests/unit/client/cli/faulty_attention.h"

namespace theria::cli {

// A gRPC server in this process that answers from a FaultyAttention: GetServerInfo, RunBenchmark
// and the four operations, with inline tensors.
class FaultyServer {
 public:
  explicit FaultyServer(Fault fault = Fault::kNone);
  ~FaultyServer();

  const std::string& target() const { return target_; }

  // Answers the next `count` calls but GetServerInfo with RESOURCE_EXHAUSTED, to be tried again
  // after `delay`.
  void Refuse(int count, absl::Duration delay);
  int refusals_left() const;

 private:
  class Services;
  std::unique_ptr<Services> services_;
  std::string target_;
};

}  // namespace theria::cli

#endif  // THERIA_TESTS_UNIT_CLIENT_CLI_FAULTY_SERVER_H_
