// What coalescing does for many small calls: 64 HVP calls of MAML's size in flight at once, against
// two servers that differ in --max-coalesced-requests alone, in turns of a second, so that both see
// the same machine. Every answer is compared, byte for byte, with that of the same call made alone.
// Exit status 1 if one differs.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "grpcpp/grpcpp.h"
#include "nlohmann/json.hpp"
#include "tests/bench/overhead/server_process.h"
#include "theria/v1/attention.grpc.pb.h"

namespace {

using Clock = std::chrono::steady_clock;
using theria::v1::AttentionService;
using theria::v1::HvpRequest;
using theria::v1::HvpResponse;

// Of the five-way one-shot tasks of `theria maml`: a support set and its heads.
constexpr std::int64_t kShape[] = {1, 4, 25, 16};

HvpRequest Request(unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  HvpRequest request;
  for (theria::v1::Tensor* tensor :
       {request.mutable_q(), request.mutable_k(), request.mutable_v(), request.mutable_o_bar(),
        request.mutable_q_dot(), request.mutable_k_dot(), request.mutable_v_dot()}) {
    std::size_t count = 1;
    for (const std::int64_t extent : kShape) {
      tensor->add_shape(extent);
      count *= static_cast<std::size_t>(extent);
    }
    std::vector<float> values(count);
    std::generate(values.begin(), values.end(), [&] { return normal(random); });
    tensor->set_dtype(theria::v1::FLOAT32);
    tensor->set_data(values.data(), values.size() * sizeof(float));
  }
  return request;
}

// The response without what differs from call to call.
std::string Outputs(HvpResponse response) {
  response.clear_execution();
  return response.SerializeAsString();
}

// Keeps one call in flight until `stop`.
class Caller {
 public:
  Caller(AttentionService::Stub& stub, unsigned seed) : stub_(stub), request_(Request(seed)) {}

  // Makes the call alone and keeps its answer. Whether it succeeded.
  bool Learn() {
    grpc::ClientContext context;
    HvpResponse response;
    const grpc::Status status = stub_.Hvp(&context, request_, &response);
    expected_ = Outputs(std::move(response));
    return status.ok();
  }

  void Start() {
    is_stopping_ = false;
    is_running_ = true;
    Issue();
  }
  void Stop() { is_stopping_ = true; }
  void Await() {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return !is_running_; });
  }
  std::uint64_t calls() const { return calls_; }
  std::uint64_t wrong() const { return wrong_; }

 private:
  void Issue() {
    context_ = std::make_unique<grpc::ClientContext>();
    response_.Clear();
    stub_.async()->Hvp(context_.get(), &request_, &response_, [this](const grpc::Status& status) {
      ++calls_;
      if (!status.ok() || Outputs(response_) != expected_) ++wrong_;
      if (!is_stopping_) return Issue();
      const std::lock_guard lock(mutex_);
      is_running_ = false;
      ended_.notify_all();
    });
  }

  AttentionService::Stub& stub_;
  const HvpRequest request_;
  std::string expected_;
  std::unique_ptr<grpc::ClientContext> context_;
  HvpResponse response_;
  std::atomic<std::uint64_t> calls_{0}, wrong_{0};
  std::atomic<bool> is_stopping_{false};
  std::mutex mutex_;
  std::condition_variable ended_;
  bool is_running_ = false;
};

struct Side {
  std::string name;
  std::optional<ServerProcess> server;
  std::unique_ptr<AttentionService::Stub> stub;
  std::vector<std::unique_ptr<Caller>> callers;
  std::vector<double> calls_per_second;

  std::uint64_t calls() const {
    std::uint64_t sum = 0;
    for (const auto& caller : callers) sum += caller->calls();
    return sum;
  }
  std::uint64_t wrong() const {
    std::uint64_t sum = 0;
    for (const auto& caller : callers) sum += caller->wrong();
    return sum;
  }
};

bool Open(Side& side, int max_coalesced, const std::string& delay, int concurrency) {
  side.name = max_coalesced == 1 ? "without" : "with";
  std::optional<ServerProcess> server = ServerProcess::Start(
      THERIA_SERVER_PATH, "/dev/null",
      {"--max-coalesced-requests", std::to_string(max_coalesced), "--coalesce-delay", delay});
  if (!server.has_value()) return false;
  side.server.emplace(*std::move(server));
  side.stub = AttentionService::NewStub(
      grpc::CreateChannel(side.server->address(), grpc::InsecureChannelCredentials()));
  for (int i = 0; i < concurrency; ++i) {
    side.callers.push_back(std::make_unique<Caller>(*side.stub, static_cast<unsigned>(i)));
    if (!side.callers.back()->Learn()) return false;
  }
  return true;
}

void RunFor(Side& side, std::chrono::duration<double> window) {
  const std::uint64_t before = side.calls();
  const Clock::time_point start = Clock::now();
  for (const auto& caller : side.callers) caller->Start();
  std::this_thread::sleep_for(window);
  for (const auto& caller : side.callers) caller->Stop();
  for (const auto& caller : side.callers) caller->Await();
  const std::chrono::duration<double> time = Clock::now() - start;
  side.calls_per_second.push_back(static_cast<double>(side.calls() - before) / time.count());
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Throughput of 64 concurrent HVP calls of MAML's size, with and without coalescing");
  int concurrency = 64;
  int rounds = 10;
  double window_seconds = 1.0;
  int max_coalesced = 16;
  std::string delay = "0s";
  std::string json_file;
  app.add_option("--concurrency", concurrency, "Calls in flight")->capture_default_str();
  app.add_option("--rounds", rounds, "Windows of each server")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--window-seconds", window_seconds, "Of one window")->capture_default_str();
  app.add_option("--max-coalesced-requests", max_coalesced, "Of the server that coalesces")
      ->capture_default_str();
  app.add_option("--coalesce-delay", delay, "Of both")->capture_default_str();
  app.add_option("--json", json_file, "Write the figures to this file");
  CLI11_PARSE(app, argc, argv);

  Side without, with;
  if (!Open(without, 1, delay, concurrency) || !Open(with, max_coalesced, delay, concurrency)) {
    std::cerr << "cannot start or reach " << THERIA_SERVER_PATH << '\n';
    return 2;
  }
  const std::chrono::duration<double> window(window_seconds);
  std::vector<double> ratios;
  for (int round = 0; round < rounds; ++round) {
    RunFor(without, window);
    RunFor(with, window);
    ratios.push_back(with.calls_per_second.back() / without.calls_per_second.back());
    std::cerr << "\rround " << round + 1 << " of " << rounds << std::flush;
  }
  std::cerr << '\n';
  nlohmann::json result = {{"benchmark", "coalescing"},
                           {"operation", "hvp"},
                           {"shape", kShape},
                           {"dtype", "float32"},
                           {"concurrency", concurrency},
                           {"max_coalesced_requests", max_coalesced},
                           {"coalesce_delay", delay},
                           {"ratio", Median(ratios)}};
  for (const Side* side : {&without, &with}) {
    result[side->name] = {{"calls_per_second", Median(side->calls_per_second)},
                          {"calls", side->calls()},
                          {"wrong", side->wrong()}};
    std::cout << side->name << ": " << Median(side->calls_per_second) << " calls a second, "
              << side->calls() << " calls, " << side->wrong() << " wrong\n";
  }
  std::cout << "median of the ratios with / without: " << Median(ratios) << '\n';
  if (!json_file.empty()) std::ofstream(json_file) << result.dump(2) << '\n';
  return without.wrong() + with.wrong() == 0 ? 0 : 1;
}
