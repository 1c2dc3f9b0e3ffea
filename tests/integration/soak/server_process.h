#ifndef THERIA_TESTS_INTEGRATION_SOAK_SERVER_PROCESS_H_
#define THERIA_TESTS_INTEGRATION_SOAK_SERVER_PROCESS_H_

#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

// A theria-server process of one's own on free ports, with its log and port files in a new
// temporary folder. Ended and cleaned up by the destructor. Not thread-safe.

namespace theria::soak {

class ServerProcess {
 public:
  // Returns when the server listens. Errors: UNAVAILABLE, with the end of the server's log.
  static absl::StatusOr<ServerProcess> Start(const std::string& binary,
                                             const std::vector<std::string>& flags);
  ServerProcess(ServerProcess&& other) noexcept;
  ServerProcess& operator=(ServerProcess&&) = delete;
  ~ServerProcess();

  const std::string& target() const { return target_; }
  const std::string& metrics_address() const { return metrics_address_; }

  // The process's resident memory; 0 if it is gone.
  std::size_t ResidentBytes() const;

  // Asks for a drain and waits; the exit status, or 128 + the signal that ended it. Kills the
  // process after half a minute.
  int Stop();

 private:
  explicit ServerProcess(std::filesystem::path directory) : directory_(std::move(directory)) {}
  bool HasExited();

  std::filesystem::path directory_;
  pid_t pid_ = -1;  // -1: none, or waited for
  int wait_status_ = 0;
  std::string target_;
  std::string metrics_address_;
};

}  // namespace theria::soak

#endif  // THERIA_TESTS_INTEGRATION_SOAK_SERVER_PROCESS_H_
