#include "client/cli/bench_command.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/cli/bench/bench_report.h"
#include "client/cli/bench/load.h"
#include "client/cli/bench/preset.h"
#include "client/cli/exit_code.h"
#include "client/cli/json_file.h"
#include "client/cli/parity/problem.h"
#include "client/cli/progress_bar.h"
#include "client/cli/target.h"

namespace theria::cli {
namespace {

using client::AttentionRequest;
using client::DType;
using client::Implementation;
using client::Operation;

constexpr Operation kOperations[] = {Operation::kForward, Operation::kVjp, Operation::kJvp,
                                     Operation::kHvp};

const std::map<std::string, DType> kDTypes = {{"float64", DType::kFloat64},
                                              {"float32", DType::kFloat32},
                                              {"float16", DType::kFloat16},
                                              {"bfloat16", DType::kBFloat16}};
const std::map<std::string, Implementation> kImplementations = {
    {"auto", Implementation::kAuto},
    {"fused", Implementation::kFused},
    {"unfused", Implementation::kUnfused},
    {"reference", Implementation::kReference}};

struct Flags {
  std::string target;
  client::ClientOptions connection;
  std::string preset = "small";
  std::string dtype = "float32";
  std::string implementation = "auto";
  bool is_causal = false;
  bool resident = false;
  std::uint32_t repetitions = 0;
  int concurrency = 1;
  double window_seconds = 1.0;
  int max_windows = 10;
  std::string json;
};

const Preset& PresetOf(const Flags& flags) {
  return *std::find_if(std::begin(kPresets), std::end(kPresets),
                       [&](const Preset& preset) { return preset.name == flags.preset; });
}

absl::StatusOr<client::BenchmarkResult> TimeOnDevice(const Target& target, const Flags& flags,
                                                     Operation operation) {
  const Preset& preset = PresetOf(flags);
  client::BenchmarkRequest request;
  request.operation = operation;
  request.dtype = kDTypes.at(flags.dtype);
  request.batch = preset.batch;
  request.heads_q = preset.heads;
  request.seq_q = preset.seq;
  request.head_dim = preset.head_dim;
  request.options.is_causal = flags.is_causal;
  request.options.implementation = kImplementations.at(flags.implementation);
  request.repetitions = flags.repetitions;
  request.preset = flags.preset;
  return target.client->RunBenchmark(request);
}

AttentionRequest LoadRequest(const Flags& flags, Operation operation) {
  const Preset& preset = PresetOf(flags);
  const Problem problem = {.option_class = "bench",
                           .batch = preset.batch,
                           .heads_q = preset.heads,
                           .heads_kv = preset.heads,
                           .seq_q = preset.seq,
                           .seq_kv = preset.seq,
                           .head_dim = preset.head_dim,
                           .head_dim_v = preset.head_dim,
                           .options = {.is_causal = flags.is_causal}};
  AttentionRequest request = MakeRequest(problem, operation, kDTypes.at(flags.dtype));
  request.outputs = {};
  request.options.implementation = kImplementations.at(flags.implementation);
  return request;
}

// A lease for outputs that nobody asks for again.
constexpr absl::Duration kOutputLease = absl::Seconds(1);

// Uploads the inputs and asks for resident outputs, so that calls carry handles only.
absl::Status MakeResident(client::Client& client, Operation operation, AttentionRequest& request) {
  for (const client::InputField& field : client::kInputFields) {
    client::AnyTensor& tensor = request.*field.member;
    if (!tensor.has_value()) continue;
    absl::StatusOr<client::ResidentTensor> resident = client.Put(tensor.local());
    if (!resident.ok()) return resident.status();
    tensor = *std::move(resident);
  }
  for (const client::OutputField& field : client::kOutputFields) {
    if (Produces(operation, field.name)) {
      request.outputs.*field.mode = client::OutputMode::kResident;
    }
  }
  request.outputs.resident_ttl = kOutputLease;
  return absl::OkStatus();
}

// Deletes the inputs that MakeResident put; those that are gone already are no matter.
void DeleteResident(client::Client& client, const AttentionRequest& request) {
  for (const client::InputField& field : client::kInputFields) {
    const client::AnyTensor& tensor = request.*field.member;
    if (tensor.is_resident()) client.Delete(tensor.resident()).IgnoreError();
  }
}

absl::StatusOr<LoadResult> LoadFromHere(const Target& target, const Flags& flags,
                                        Operation operation, ProgressBar& progress) {
  AttentionRequest request = LoadRequest(flags, operation);
  if (flags.resident) {
    const absl::Status status = MakeResident(*target.client, operation, request);
    if (!status.ok()) return status;
  }
  const auto call = [&]() -> absl::StatusOr<client::ExecutionInfo> {
    absl::StatusOr<client::AttentionResult> result = target.client->Run(operation, request);
    if (!result.ok()) return result.status();
    return std::move(result->execution);
  };
  const LoadOptions options = {.concurrency = flags.concurrency,
                               .window = absl::Seconds(flags.window_seconds),
                               .max_windows = flags.max_windows};
  absl::StatusOr<LoadResult> load = ApplyLoad(call, options, [&](const Window& window) {
    progress.Advance(absl::StrFormat("%s, %.1f calls/s",
                                     std::string(client::OperationName(operation)),
                                     window.calls_per_second));
  });
  DeleteResident(*target.client, request);
  return load;
}

absl::StatusOr<std::vector<BenchResult>> Measure(const Target& target, const Flags& flags) {
  // An operation is one step on the device and at most so many windows from here.
  ProgressBar progress("bench", std::size(kOperations) * (1 + flags.max_windows));
  std::vector<BenchResult> results;
  for (const Operation operation : kOperations) {
    absl::StatusOr<client::BenchmarkResult> device = TimeOnDevice(target, flags, operation);
    if (!device.ok()) return device.status();
    progress.Advance(std::string(client::OperationName(operation)) + ", on the device");
    absl::StatusOr<LoadResult> load = LoadFromHere(target, flags, operation, progress);
    if (!load.ok()) return load.status();
    results.push_back({operation, *std::move(device), *std::move(load)});
  }
  return results;
}

int RunBench(const Flags& flags) {
  const std::optional<Target> target = OpenTarget(flags.target, flags.connection);
  if (!target.has_value()) return kUnusable;
  const absl::StatusOr<std::vector<BenchResult>> results = Measure(*target, flags);
  if (!results.ok()) {
    PrintError(flags.target, "the benchmark ended", results.status());
    return kEnded;
  }
  const Preset& preset = PresetOf(flags);
  if (!flags.json.empty()) {
    nlohmann::ordered_json document = {
        {"target", flags.target},
        {"version", target->info.version},
        {"preset", flags.preset},
        {"shape", {preset.batch, preset.heads, preset.seq, preset.head_dim}},
        {"dtype", flags.dtype},
        {"implementation", flags.implementation},
        {"is_causal", flags.is_causal},
        {"resident", flags.resident},
        {"concurrency", flags.concurrency},
        {"operations", BenchJson(*results)}};
    if (!WriteJson(document, flags.json)) return kUnusable;
  }
  if (flags.json != "-") {
    std::printf("%s: preset %s [%d, %d, %d, %d] %s%s, %s, concurrency %d\n\n%s",
                flags.target.c_str(), flags.preset.c_str(), static_cast<int>(preset.batch),
                static_cast<int>(preset.heads), static_cast<int>(preset.seq),
                static_cast<int>(preset.head_dim), flags.dtype.c_str(),
                flags.is_causal ? " causal" : "", flags.resident ? "resident" : "inline",
                flags.concurrency, FormatBench(*results).c_str());
  }
  return kHeld;
}

template <typename Map>
std::vector<std::string> Keys(const Map& map) {
  std::vector<std::string> keys;
  for (const auto& entry : map) keys.push_back(entry.first);
  return keys;
}

}  // namespace

void AddBenchCommand(CLI::App& app, int* exit_code) {
  const auto flags = std::make_shared<Flags>();
  std::vector<std::string> presets;
  for (const Preset& preset : kPresets) presets.emplace_back(preset.name);
  CLI::App* command =
      app.add_subcommand("bench", "Time the four operations, on the device and from this client");
  command->add_option("TARGET", flags->target, "host:port or unix:PATH")->required();
  AddConnectionFlags(*command, flags->connection);
  command->add_option("--preset", flags->preset, "Problem size")
      ->check(CLI::IsMember(presets))
      ->capture_default_str();
  command->add_option("--dtype", flags->dtype, "Element type")
      ->check(CLI::IsMember(Keys(kDTypes)))
      ->capture_default_str();
  command->add_option("--implementation", flags->implementation, "Implementation to time")
      ->check(CLI::IsMember(Keys(kImplementations)))
      ->capture_default_str();
  command->add_flag("--causal", flags->is_causal, "Causal attention");
  command->add_flag("--resident", flags->resident,
                    "Keep inputs and outputs on the server, so that calls carry only handles");
  command->add_option("--repetitions", flags->repetitions,
                      "Repetitions on the device; 0: the server's default");
  command->add_option("--concurrency", flags->concurrency, "Concurrent calls")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option("--window", flags->window_seconds, "Length of a measurement window in seconds")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  command
      ->add_option("--max-windows", flags->max_windows,
                   "Maximum windows to wait for stable latency and throughput")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--json", flags->json, "Write the results as JSON; - is standard output");
  command->callback([flags, exit_code] { *exit_code = RunBench(*flags); });
}

}  // namespace theria::cli
