#include "server/telemetry/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "absl/time/clock.h"

namespace theria::server {
namespace {

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double OpenFiles() {
  std::error_code error;
  double count = 0;
  for (std::filesystem::directory_iterator entry("/proc/self/fd", error), end;
       !error && entry != end; entry.increment(error)) {
    ++count;
  }
  return count;
}

double MaxOpenFiles() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

std::vector<MetricSample> SampleProcess(double start_seconds) {
  std::ifstream statm("/proc/self/statm");  // in pages: size, resident, ...
  double virtual_pages = 0;
  double resident_pages = 0;
  statm >> virtual_pages >> resident_pages;
  const auto page_bytes = static_cast<double>(sysconf(_SC_PAGESIZE));
  using Kind = MetricSample::Kind;
  return {
      {"process_resident_memory_bytes",
       "Resident memory.",
       Kind::kGauge,
       {},
       resident_pages * page_bytes},
      {"process_virtual_memory_bytes",
       "Virtual memory.",
       Kind::kGauge,
       {},
       virtual_pages * page_bytes},
      {"process_cpu_seconds_total", "User and system CPU time.", Kind::kCounter, {}, CpuSeconds()},
      {"process_open_fds", "Open file descriptors.", Kind::kGauge, {}, OpenFiles()},
      {"process_max_fds", "Limit of open file descriptors.", Kind::kGauge, {}, MaxOpenFiles()},
      {"process_start_time_seconds",
       "Start of the process since the Unix epoch.",
       Kind::kGauge,
       {},
       start_seconds},
  };
}

}  // namespace

void AddProcessMetrics(MetricRegistry& registry, const BuildInfo& build) {
  const double start_seconds = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  registry.AddSource([start_seconds] { return SampleProcess(start_seconds); });
  registry.AddSource([build]() -> std::vector<MetricSample> {
    return {{"theria_build_info",
             "Constant 1; the labels tell what runs.",
             MetricSample::Kind::kGauge,
             {{"version", build.version}, {"commit", build.commit}, {"backend", build.backend}},
             1.0}};
  });
}

}  // namespace theria::server
