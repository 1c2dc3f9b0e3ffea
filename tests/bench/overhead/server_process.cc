#include "tests/bench/overhead/server_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>

extern char** environ;

std::optional<ServerProcess> ServerProcess::Start(const std::string& program,
                                                  const std::string& log_file,
                                                  const std::vector<std::string>& flags) {
  std::string folder = (std::filesystem::temp_directory_path() / "theria-bench-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return std::nullopt;
  std::string port_file = folder + "/address";
  std::vector<std::string> arguments = {program,  "--listen",    "127.0.0.1:0", "--metrics-listen",
                                        "none",   "--log-level", "info",        "--port-file",
                                        port_file};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_file.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0644);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);

  std::string address;
  for (int attempt = 0; error == 0 && address.empty() && attempt < 1000; ++attempt) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::ifstream file(port_file);
    std::getline(file, address);
  }
  std::filesystem::remove_all(folder);
  if (error != 0) return std::nullopt;
  ServerProcess server(pid, address);
  if (address.empty()) return std::nullopt;
  return server;
}

ServerProcess::ServerProcess(pid_t pid, std::string address)
    : pid_(pid), address_(std::move(address)) {}

ServerProcess::ServerProcess(ServerProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)), address_(std::move(other.address_)) {}

ServerProcess::~ServerProcess() {
  if (pid_ == 0) return;
  kill(pid_, SIGTERM);
  waitpid(pid_, nullptr, 0);
}
