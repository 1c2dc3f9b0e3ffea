// theria_soak: many concurrent clients of mixed calls against a theria-server of its own.
//
//     build/tests/theria_soak --server build/bin/theria-server --seconds 60 --json soak.json
//
// Holds if no call had another outcome than it must (refusals by admission aside), if every answer
// was right, if the server's resident memory at rest has not grown by over 5% since the warm-up of
// ten seconds, 100 calls a client and a tenth of the run (if it goes on for long enough to tell),
// if its metrics add up to the calls made, if its store is empty in the end, and if it drains and
// exits with 0.
//
// Exit status: 0 held, 1 failed, 2 wrong usage or no server.
//
// At rest: now and then all clients stop and disconnect for a moment. Under load a server's memory
// moves by a tenth from second to second, for gRPC's buffers and the holes between them; at rest
// they are gone, and what stays is what it holds.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/exit_code.h"
#include "client/cli/json_file.h"
#include "client/cli/progress_bar.h"
#include "client/cli/table.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "tests/integration/soak/scrape.h"
#include "tests/integration/soak/server_process.h"
#include "tests/integration/soak/tally.h"
#include "tests/integration/soak/worker.h"

namespace theria::soak {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(250);
// What is made once, with the first call of each kind, is there then; on a busy machine, ten
// seconds alone are too few.
constexpr double kWarmUpSeconds = 10.0;
constexpr std::uint64_t kWarmUpCallsPerClient = 100;
// Of a long run, this part: glibc's heap goes on settling, by a percent or two each time that the
// time doubles.
constexpr double kWarmUpShare = 0.1;
constexpr absl::Duration kQuietTimeout = absl::Seconds(20);
// The server gives freed memory back within a second of rest.
constexpr absl::Duration kRest = absl::Milliseconds(1500);
constexpr double kMinSecondsBetweenRests = 2.0;
constexpr std::size_t kRestsCompared = 3;  // the first with the last
constexpr double kMaxMemoryDrift = 0.05;
constexpr std::int64_t kDownloadElements = 512 << 10;  // 2 MiB

struct Flags {
  std::string server;
  double seconds = 60.0;
  std::uint64_t calls = 0;  // at least; goes on for longer if it takes longer
  int clients = 64;
  int max_queued_requests = 16;  // low, so that admission has to refuse now and then
  std::uint64_t seed = 1;
  std::string json;
};

struct MemorySample {
  double seconds;
  std::size_t bytes;
};

struct Outcome {
  Tally tally;
  double seconds = 0.0;
  std::vector<std::string> failures;  // the first few of each client, and all others
  std::uint64_t failure_count = 0;
  std::vector<MemorySample> memory;  // under load
  std::vector<MemorySample> rests;   // from kWarmUpSeconds on
  int exit_status = 0;

  // None if the run ended too soon after the warm-up to tell.
  std::optional<double> memory_drift() const {
    if (rests.end() - warmed_up() < 2 * static_cast<std::ptrdiff_t>(kRestsCompared)) {
      return std::nullopt;
    }
    return static_cast<double>(bytes_at_end()) / static_cast<double>(bytes_after_warm_up()) - 1.0;
  }
  std::vector<MemorySample>::const_iterator warmed_up() const {
    return std::find_if(rests.begin(), rests.end(), [this](const MemorySample& rest) {
      return rest.seconds >= kWarmUpShare * seconds;
    });
  }
  std::size_t bytes_after_warm_up() const { return MedianBytes(&*warmed_up()); }
  std::size_t bytes_at_end() const { return MedianBytes(&rests.back() + 1 - kRestsCompared); }

 private:
  static std::size_t MedianBytes(const MemorySample* first) {
    std::array<std::size_t, kRestsCompared> bytes;
    std::transform(first, first + kRestsCompared, bytes.begin(),
                   [](const MemorySample& sample) { return sample.bytes; });
    std::sort(bytes.begin(), bytes.end());
    return bytes[kRestsCompared / 2];
  }
};

std::vector<Problem> MakeProblems(std::uint64_t seed) {
  using client::DType;
  constexpr ProblemSize kSizes[] = {
      {DType::kFloat32, 1, 1, 16, 16, 16, 16},  {DType::kFloat64, 2, 2, 33, 48, 32, 24},
      {DType::kFloat32, 2, 4, 64, 64, 32, 32},  {DType::kFloat16, 1, 2, 40, 72, 64, 64},
      {DType::kBFloat16, 1, 4, 64, 32, 16, 64}, {DType::kFloat64, 1, 2, 128, 128, 64, 64}};
  std::vector<Problem> problems;
  for (const ProblemSize& size : kSizes) problems.emplace_back(size, seed++);
  return problems;
}

// The metrics once `is_quiet` holds of them, or after kQuietTimeout.
absl::StatusOr<Metrics> QuietMetrics(const std::string& address, bool (*is_quiet)(const Metrics&)) {
  const absl::Time deadline = absl::Now() + kQuietTimeout;
  while (true) {
    absl::StatusOr<Metrics> metrics = Scrape(address);
    if (!metrics.ok() || is_quiet(*metrics) || absl::Now() > deadline) return metrics;
    absl::SleepFor(absl::Milliseconds(50));
  }
}

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& target) {
  return grpc::CreateChannel(target, grpc::InsecureChannelCredentials());
}

// The least that the server takes while there is no call, and of the clients no connection: gRPC
// keeps buffers for each, as large as its last messages.
std::size_t BytesAtRest(const ServerProcess& server, client::Client& client, Shared& shared,
                        Tally& tally) {
  shared.pause.Begin();
  shared.channel = OpenChannel(shared.target);
  static_cast<void>(QuietMetrics(server.metrics_address(), AllEnded));
  // After the last call, freed memory goes back: this comes after the last connection.
  tally.Answered(kGetServerInfo, client.GetServerInfo().status().code());
  std::size_t bytes = server.ResidentBytes();
  for (const absl::Time end = absl::Now() + kRest; absl::Now() < end;) {
    absl::SleepFor(absl::Milliseconds(50));
    bytes = std::min(bytes, server.ResidentBytes());
  }
  shared.channel->WaitForConnected(absl::ToChronoTime(absl::Now() + kQuietTimeout));
  shared.pause.End();
  return bytes;
}

// Runs the clients for flags.seconds, rests apart, and flags.calls; samples the server's memory
// meanwhile.
void RunClients(const Flags& flags, const ServerProcess& server, client::Client& client,
                Shared& shared, Outcome& outcome) {
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < flags.clients; ++i) {
    workers.push_back(std::make_unique<Worker>(shared, flags.seed + static_cast<std::uint64_t>(i)));
  }
  std::vector<std::thread> threads;
  absl::Time start = absl::Now();  // later by each rest
  const auto now = [&] { return absl::ToDoubleSeconds(absl::Now() - start); };
  const auto rest = [&] {
    const absl::Time begin = absl::Now();
    const std::size_t bytes = BytesAtRest(server, client, shared, outcome.tally);
    start += absl::Now() - begin;
    outcome.rests.push_back({now(), bytes});
  };
  for (const auto& worker : workers) threads.emplace_back([&worker] { worker->Run(); });
  {
    const auto ticks =
        static_cast<std::size_t>(std::ceil(flags.seconds / absl::ToDoubleSeconds(kTick)));
    double next_rest = kWarmUpSeconds;
    cli::ProgressBar bar("soak", ticks);
    for (std::size_t tick = 1; tick <= ticks || shared.calls < flags.calls; ++tick) {
      absl::SleepFor(start + kTick * static_cast<double>(tick) - absl::Now());
      outcome.memory.push_back({now(), server.ResidentBytes()});
      if (now() >= next_rest &&
          shared.calls >= kWarmUpCallsPerClient * static_cast<std::uint64_t>(flags.clients)) {
        rest();
        const double since_first = outcome.rests.back().seconds - outcome.rests.front().seconds;
        next_rest = now() + std::max(kMinSecondsBetweenRests, since_first / 4);
      }
      if (tick > ticks) continue;
      bar.Advance(absl::StrFormat("%d calls, %d failures, %.0f MiB", shared.calls.load(),
                                  shared.failures.load(),
                                  static_cast<double>(outcome.memory.back().bytes) / (1 << 20)));
    }
  }
  outcome.seconds = now();
  if (!outcome.rests.empty() &&
      outcome.seconds - outcome.rests.back().seconds >= kMinSecondsBetweenRests / 2) {
    rest();
  }
  shared.is_over = true;
  for (std::thread& thread : threads) thread.join();
  for (const auto& worker : workers) {
    outcome.tally.Add(worker->tally());
    outcome.failures.insert(outcome.failures.end(), worker->failures().begin(),
                            worker->failures().end());
  }
  outcome.failure_count = shared.failures;
}

void CheckEnd(const Flags& flags, ServerProcess& server, Outcome& outcome) {
  const auto fail = [&](const std::string& what) {
    ++outcome.failure_count;
    outcome.failures.push_back(what);
  };
  const absl::StatusOr<Metrics> metrics = QuietMetrics(server.metrics_address(), IsQuiet);
  if (metrics.ok()) {
    for (const std::string& finding : Audit(outcome.tally, *metrics)) fail("metrics: " + finding);
    for (const char* name : kIdleGauges) {
      const double left = metrics->Sum(name);
      if (left != 0.0) fail(absl::StrFormat("%s is %g in the end", name, left));
    }
  } else {
    fail(metrics.status().ToString());
  }
  if (outcome.memory_drift().value_or(0.0) > kMaxMemoryDrift) {
    fail(absl::StrFormat("resident memory at rest went from %d to %d bytes, by %.1f%%",
                         outcome.bytes_after_warm_up(), outcome.bytes_at_end(),
                         100.0 * *outcome.memory_drift()));
  }
  const auto& methods = outcome.tally.methods();
  for (const Method& method : {kForward, kVjp, kJvp, kHvp, kUpload, kDownload, kStat, kList,
                               kDelete, kGetServerInfo, kHealthCheck}) {
    if (!methods.contains(method)) fail("never called: " + std::string(method.name));
  }
  outcome.exit_status = server.Stop();
  if (outcome.exit_status != 0) {
    fail(absl::StrFormat("the server exited with %d after %g s", outcome.exit_status,
                         flags.seconds));
  }
}

nlohmann::ordered_json ToJson(const Flags& flags, const Outcome& outcome) {
  nlohmann::ordered_json document = {{"held", outcome.failure_count == 0},
                                     {"seconds", outcome.seconds},
                                     {"clients", flags.clients},
                                     {"max_queued_requests", flags.max_queued_requests},
                                     {"seed", flags.seed},
                                     {"calls", outcome.tally.calls()},
                                     {"calls_per_second", outcome.tally.calls() / outcome.seconds},
                                     {"failure_count", outcome.failure_count},
                                     {"failures", outcome.failures}};
  nlohmann::ordered_json& memory = document["memory"];
  if (outcome.memory_drift().has_value()) memory["drift"] = *outcome.memory_drift();
  memory["limit"] = kMaxMemoryDrift;
  for (const auto& [name, samples] :
       {std::pair("at_rest", &outcome.rests), {"samples", &outcome.memory}}) {
    for (const MemorySample& sample : *samples)
      memory[name].push_back({sample.seconds, sample.bytes});
  }
  for (const auto& [method, calls] : outcome.tally.methods()) {
    nlohmann::ordered_json& entry = document["methods"][std::string(method.name)];
    for (const auto& [code, count] : calls.answered) entry[CodeLabel(code)] = count;
    if (calls.broken_off_there > 0) entry["broken_off_there"] = calls.broken_off_there;
    if (calls.broken_off_perhaps > 0) entry["broken_off_perhaps"] = calls.broken_off_perhaps;
  }
  return document;
}

void Print(const Outcome& outcome) {
  cli::Table table({{"method"}, {"outcome"}, {"calls", cli::Align::kRight}});
  for (const auto& [method, calls] : outcome.tally.methods()) {
    for (const auto& [code, count] : calls.answered) {
      table.AddRow({std::string(method.name), CodeLabel(code), std::to_string(count)});
    }
    const std::uint64_t broken_off = calls.broken_off_there + calls.broken_off_perhaps;
    if (broken_off > 0) {
      table.AddRow({std::string(method.name), "broken off", std::to_string(broken_off)});
    }
  }
  std::printf("%s\n%d calls in %.1f s, %.0f a second; refused %d\n", table.ToString().c_str(),
              static_cast<int>(outcome.tally.calls()), outcome.seconds,
              static_cast<double>(outcome.tally.calls()) / outcome.seconds,
              static_cast<int>(outcome.tally.answered(absl::StatusCode::kResourceExhausted)));
  if (outcome.memory_drift().has_value()) {
    std::printf("resident memory at rest %.1f MiB from %.1f s on, %.1f MiB at the end: %+.2f%%\n",
                static_cast<double>(outcome.bytes_after_warm_up()) / (1 << 20),
                outcome.warmed_up()->seconds,
                static_cast<double>(outcome.bytes_at_end()) / (1 << 20),
                100.0 * *outcome.memory_drift());
  } else {
    std::printf("resident memory not judged: the run was too short for this machine\n");
  }
  for (const std::string& failure : outcome.failures) std::printf("FAILED: %s\n", failure.c_str());
  std::printf("%s\n",
              outcome.failure_count == 0 ? "held: every answer right, metrics add up" : "FAILED");
}

int Soak(const Flags& flags) {
  auto server = ServerProcess::Start(
      flags.server, {absl::StrFormat("--max-queued-requests=%d", flags.max_queued_requests)});
  if (!server.ok()) {
    std::fprintf(stderr, "theria_soak: %s\n", std::string(server.status().message()).c_str());
    return cli::kUnusable;
  }
  Shared shared;
  shared.target = server->target();
  shared.problems = MakeProblems(flags.seed);
  shared.long_hvp = LongHvp();
  shared.channel = OpenChannel(shared.target);

  Outcome outcome;
  client::Client client(shared.target);
  const auto large = client.Put(client::Tensor::Zeros(client::DType::kFloat32, {kDownloadElements}),
                                {.ttl = kLeaseOfTheRun});
  outcome.tally.Answered(kUpload, large.status().code());
  if (!large.ok()) {
    std::fprintf(stderr, "theria_soak: %s\n", large.status().ToString().c_str());
    return cli::kUnusable;
  }
  shared.download_handle = large->handle();
  RunClients(flags, *server, client, shared, outcome);
  outcome.tally.Answered(kDelete, client.Delete(*large).code());
  CheckEnd(flags, *server, outcome);
  Print(outcome);
  if (!flags.json.empty() && !cli::WriteJson(ToJson(flags, outcome), flags.json)) {
    return cli::kUnusable;
  }
  return outcome.failure_count == 0 ? cli::kHeld : cli::kFailed;
}

}  // namespace
}  // namespace theria::soak

int main(int argc, char** argv) {
  CLI::App app("Many concurrent clients of mixed calls against a server of its own", "theria_soak");
  theria::soak::Flags flags;
  app.add_option("--server", flags.server, "The theria-server to run")->required();
  app.add_option("--seconds", flags.seconds, "How long")
      ->check(CLI::Range(4.0, 86400.0))
      ->capture_default_str();
  app.add_option("--calls", flags.calls, "How many at least, however long that takes")
      ->capture_default_str();
  app.add_option("--clients", flags.clients, "How many at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--max-queued-requests", flags.max_queued_requests, "The server's limit")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--seed", flags.seed, "Of the calls and the problems")->capture_default_str();
  app.add_option("--json", flags.json, "Write the outcome as JSON; - is standard output");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? theria::cli::kHeld : theria::cli::kUnusable;
  }
  return theria::soak::Soak(flags);
}
