#include "tests/integration/soak/server_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

extern char** environ;

namespace theria::soak {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(30);
constexpr absl::Duration kStopTimeout = absl::Seconds(40);  // over the server's own drain timeout
constexpr std::size_t kLogTailBytes = 2000;

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string FirstLine(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

}  // namespace

absl::StatusOr<ServerProcess> ServerProcess::Start(const std::string& binary,
                                                   const std::vector<std::string>& flags) {
  std::string pattern = std::filesystem::temp_directory_path() / "theria-soak-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot create ", pattern));
  }
  ServerProcess server{std::filesystem::path(pattern)};
  const std::filesystem::path ports = server.directory_ / "ports";
  const std::filesystem::path metrics = server.directory_ / "metrics";
  const std::filesystem::path log = server.directory_ / "log";
  std::vector<std::string> arguments = {binary, "--listen=127.0.0.1:0",
                                        "--metrics-listen=127.0.0.1:0",
                                        absl::StrCat("--port-file=", ports.string()),
                                        absl::StrCat("--metrics-port-file=", metrics.string())};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  const int error =
      posix_spawn(&server.pid_, binary.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    server.pid_ = -1;
    return absl::UnavailableError(absl::StrCat("cannot run ", binary));
  }

  const absl::Time deadline = absl::Now() + kStartTimeout;
  while (!std::filesystem::exists(ports)) {  // written last, and whole
    if (server.HasExited() || absl::Now() > deadline) {
      const std::string text = ReadFile(log);
      return absl::UnavailableError(absl::StrCat(
          binary,
          " did not start: ", text.substr(text.size() - std::min(text.size(), kLogTailBytes))));
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  server.target_ = FirstLine(ports);
  server.metrics_address_ = FirstLine(metrics);
  return server;
}

ServerProcess::ServerProcess(ServerProcess&& other) noexcept
    : directory_(std::exchange(other.directory_, {})),
      pid_(std::exchange(other.pid_, -1)),
      wait_status_(other.wait_status_),
      target_(std::move(other.target_)),
      metrics_address_(std::move(other.metrics_address_)) {}

ServerProcess::~ServerProcess() {
  Stop();
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
}

bool ServerProcess::HasExited() {
  if (pid_ != -1 && waitpid(pid_, &wait_status_, WNOHANG) == pid_) pid_ = -1;
  return pid_ == -1;
}

std::size_t ServerProcess::ResidentBytes() const {
  std::ifstream statm(absl::StrCat("/proc/", pid_, "/statm"));
  std::size_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

int ServerProcess::Stop() {
  if (pid_ != -1) kill(pid_, SIGTERM);
  const absl::Time deadline = absl::Now() + kStopTimeout;
  while (!HasExited()) {
    if (absl::Now() > deadline) kill(pid_, SIGKILL);
    absl::SleepFor(absl::Milliseconds(10));
  }
  return WIFEXITED(wait_status_) ? WEXITSTATUS(wait_status_) : 128 + WTERMSIG(wait_status_);
}

}  // namespace theria::soak
