// What a small call costs beyond the RPC itself: the time of Forward at (1, 1, 16, 16) float32
// against that of a health check, taken in turns on one channel, so that both see the same machine.
// Exit status 1 if the ratio of the medians exceeds --max-ratio.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "grpcpp/grpcpp.h"
#include "health.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "tests/bench/overhead/server_process.h"
#include "theria/v1/attention.grpc.pb.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kSeq = 16;
constexpr std::int64_t kHeadDim = 16;

theria::v1::ForwardRequest SmallRequest() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  theria::v1::ForwardRequest request;
  for (theria::v1::Tensor* tensor :
       {request.mutable_q(), request.mutable_k(), request.mutable_v()}) {
    std::vector<float> values(kSeq * kHeadDim);
    std::generate(values.begin(), values.end(), [&] { return normal(random); });
    tensor->set_dtype(theria::v1::FLOAT32);
    for (const std::int64_t extent : {std::int64_t{1}, std::int64_t{1}, kSeq, kHeadDim}) {
      tensor->add_shape(extent);
    }
    tensor->set_data(values.data(), values.size() * sizeof(float));
  }
  return request;
}

// Microseconds of one call, or nothing if it failed.
template <typename Call>
std::optional<double> Time(const Call& call) {
  const Clock::time_point start = Clock::now();
  const grpc::Status status = call();
  const std::chrono::duration<double, std::micro> time = Clock::now() - start;
  if (status.ok()) return time.count();
  std::cerr << "call failed: " << status.error_code() << " " << status.error_message() << '\n';
  return std::nullopt;
}

struct Times {
  std::vector<double> check_us, forward_us, compute_us;
};

std::optional<Times> Measure(const std::shared_ptr<grpc::Channel>& channel, int rounds) {
  const auto attention = theria::v1::AttentionService::NewStub(channel);
  const auto health = grpc::health::v1::Health::NewStub(channel);
  const theria::v1::ForwardRequest forward_request = SmallRequest();
  const int warm_up_rounds = rounds / 10;
  Times times;
  for (int round = -warm_up_rounds; round < rounds; ++round) {
    theria::v1::ForwardResponse response;
    const std::optional<double> check_us = Time([&] {
      grpc::ClientContext context;
      grpc::health::v1::HealthCheckResponse health_response;
      return health->Check(&context, {}, &health_response);
    });
    const std::optional<double> forward_us = Time([&] {
      grpc::ClientContext context;
      return attention->Forward(&context, forward_request, &response);
    });
    if (!check_us.has_value() || !forward_us.has_value()) return std::nullopt;
    if (round < 0) continue;
    times.check_us.push_back(*check_us);
    times.forward_us.push_back(*forward_us);
    times.compute_us.push_back(1e6 * response.execution().compute_seconds());
  }
  return times;
}

nlohmann::json Summarise(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  const auto quantile = [&](double p) {
    return us[static_cast<std::size_t>(p * static_cast<double>(us.size() - 1))];
  };
  return {{"p50_us", quantile(0.5)}, {"p90_us", quantile(0.9)}, {"p99_us", quantile(0.99)}};
}

void PrintRow(const std::string& name, const nlohmann::json& summary) {
  std::cout << std::left << std::setw(34) << name << std::right << std::fixed
            << std::setprecision(1);
  for (const char* key : {"p50_us", "p90_us", "p99_us"}) {
    std::cout << std::setw(12) << summary.at(key).get<double>();
  }
  std::cout << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Small-call overhead: Forward at (1, 1, 16, 16) float32 against a health check");
  std::string target;
  std::string json_file;
  std::string log_file = "/dev/null";
  int rounds = 10000;
  double max_ratio = 1.5;
  app.add_option("--target", target, "A server that runs; default: one of the benchmark's own");
  app.add_option("--rounds", rounds, "Pairs of calls")
      ->capture_default_str()
      ->check(CLI::Range(10, 10'000'000));
  app.add_option("--max-ratio", max_ratio, "Largest ratio of the medians")->capture_default_str();
  app.add_option("--json", json_file, "Write the figures to this file");
  app.add_option("--server-log", log_file, "Where its own server logs")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const std::optional<ServerProcess> server =
      target.empty() ? ServerProcess::Start(THERIA_SERVER_PATH, log_file) : std::nullopt;
  if (target.empty() && !server.has_value()) {
    std::cerr << "cannot start " << THERIA_SERVER_PATH << '\n';
    return 2;
  }
  if (server.has_value()) target = server->address();
  const auto channel = grpc::CreateChannel(target, grpc::InsecureChannelCredentials());
  const std::optional<Times> times = Measure(channel, rounds);
  if (!times.has_value()) return 2;

  nlohmann::json result = {{"benchmark", "overhead"},
                           {"rounds", rounds},
                           {"shape", {1, 1, kSeq, kHeadDim}},
                           {"dtype", "float32"},
                           {"health_check", Summarise(times->check_us)},
                           {"forward", Summarise(times->forward_us)},
                           {"forward_compute", Summarise(times->compute_us)},
                           {"max_ratio", max_ratio}};
  const double ratio =
      result["forward"]["p50_us"].get<double>() / result["health_check"]["p50_us"].get<double>();
  const bool holds = ratio <= max_ratio;
  result["ratio"] = ratio;
  result["holds"] = holds;

  std::cout << std::left << std::setw(34) << "microseconds" << std::right << std::setw(12) << "p50"
            << std::setw(12) << "p90" << std::setw(12) << "p99" << '\n';
  PrintRow("health check", result["health_check"]);
  PrintRow("Forward (1, 1, 16, 16) float32", result["forward"]);
  PrintRow("  of which computing", result["forward_compute"]);
  std::cout << "ratio of the medians " << std::setprecision(3) << ratio << ", at most " << max_ratio
            << ": " << (holds ? "holds" : "EXCEEDED") << '\n';
  if (!json_file.empty()) std::ofstream(json_file) << result.dump(2) << '\n';
  return holds ? 0 : 1;
}
