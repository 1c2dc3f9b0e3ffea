#ifndef THERIA_TESTS_BENCH_OVERHEAD_SERVER_PROCESS_H_
#define THERIA_TESTS_BENCH_OVERHEAD_SERVER_PROCESS_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

// A theria-server of the benchmark's own: started on a free port, ended with the object.

class ServerProcess {
 public:
  // Nothing if the server did not listen within ten seconds.
  static std::optional<ServerProcess> Start(const std::string& program, const std::string& log_file,
                                            const std::vector<std::string>& flags = {});
  ServerProcess(ServerProcess&& other) noexcept;
  ServerProcess& operator=(ServerProcess&&) = delete;
  ~ServerProcess();

  const std::string& address() const { return address_; }

 private:
  ServerProcess(pid_t pid, std::string address);

  pid_t pid_;
  std::string address_;
};

#endif  // THERIA_TESTS_BENCH_OVERHEAD_SERVER_PROCESS_H_
