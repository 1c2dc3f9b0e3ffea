// A library to preload: theria-server then loses LEAK_BYTES_PER_SECOND (of the environment),
// written once, as if it forgot to free them. To show that the soak finds a leak.

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

namespace {

constexpr std::size_t kBlockBytes = 1024;  // from the heap, as the server's small objects

void Leak(double bytes_per_second) {
  sigset_t all;
  sigfillset(&all);  // they are the server's
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  while (true) {
    void* volatile lost = std::malloc(kBlockBytes);
    if (lost != nullptr) std::memset(lost, 1, kBlockBytes);
    std::this_thread::sleep_for(std::chrono::duration<double>(kBlockBytes / bytes_per_second));
  }
}

__attribute__((constructor)) void Begin() {
  const char* const rate = std::getenv("LEAK_BYTES_PER_SECOND");
  if (rate == nullptr || std::string_view(program_invocation_short_name) != "theria-server") return;
  std::thread(Leak, std::atof(rate)).detach();
}

}  // namespace
