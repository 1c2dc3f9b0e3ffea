#include "client/cli/maml_command.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/cli/exit_code.h"
#include "client/cli/json_file.h"
#include "client/cli/maml_experiment.h"
#include "client/cli/maml_report.h"
#include "client/cli/progress_bar.h"
#include "client/cli/target.h"

namespace theria::cli {
namespace {

struct Flags {
  std::string target;
  client::ClientOptions connection;
  std::string json;
  MamlConfig config;
};

// An option of a few named values.
template <typename Value, typename NameOf>
void AddChoice(CLI::App& command, const std::string& flag, Value& chosen, NameOf name_of,
               const std::vector<Value>& values, const std::string& help) {
  std::vector<std::string> names;
  for (const Value value : values) names.emplace_back(name_of(value));
  const auto choose = [&chosen, name_of, values](const std::string& name) {
    chosen = *std::find_if(values.begin(), values.end(),
                           [&](Value value) { return name_of(value) == name; });
  };
  command.add_option_function<std::string>(flag, choose, help)
      ->check(CLI::IsMember(names))
      ->type_name("NAME")
      ->default_str(names.front());
}

std::string CheckRate(const std::string& text) {
  double rate = 0.0;
  if (CLI::detail::lexical_cast(text, rate) && std::isfinite(rate) && rate > 0.0) return "";
  return "must be a positive, finite number, but is " + text;
}

// Reading would take -1 for 2^64 - 1.
std::string CheckSeed(const std::string& text) {
  return text.find('-') == std::string::npos ? "" : "must not be negative, but is " + text;
}

int RunMamlCommand(const Flags& flags) {
  const std::optional<Target> target = OpenTarget(flags.target, flags.connection);
  if (!target.has_value()) return kUnusable;
  absl::StatusOr<MamlReport> report;
  {
    ProgressBar bar("maml", static_cast<std::size_t>(MamlProgressSteps(flags.config)));
    report =
        RunMaml(flags.config, *target->client, [&](const std::string& note) { bar.Advance(note); });
  }
  if (!report.ok()) {
    PrintError(flags.target, "maml ended", report.status());
    return absl::IsOutOfRange(report.status()) ? kFailed : kEnded;
  }
  if (flags.json != "-") {
    std::fputs(FormatMaml(flags.target, flags.config, *report).c_str(), stdout);
  }
  if (!flags.json.empty() &&
      !WriteJson(MamlJson(flags.target, flags.config, *report), flags.json)) {
    return kUnusable;
  }
  return report->check.held() ? kHeld : kFailed;
}

}  // namespace

void AddMamlCommand(CLI::App& app, int* exit_code) {
  using client::DType;
  using client::Implementation;
  const auto flags = std::make_shared<Flags>();
  MamlConfig& config = flags->config;
  CLI::App* command =
      app.add_subcommand("maml", "Run MAML with all attention computed by a server");
  command->add_option("TARGET", flags->target, "host:port or unix:PATH")->required();
  AddConnectionFlags(*command, flags->connection);
  AddChoice<maml::Mode>(*command, "--mode", config.mode, maml::ModeName,
                        {maml::Mode::kFull, maml::Mode::kFo, maml::Mode::kFoStrict},
                        "Meta-gradient: exact; first-order; or, as a control, first-order with "
                        "detached parameters");
  command->add_option("--inner-steps", config.inner.steps, "Gradient steps on the support set")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--inner-lr", config.inner.learning_rate, "Learning rate of the inner steps")
      ->check(CheckRate)
      ->capture_default_str();
  command->add_option("--outer-steps", config.outer.steps, "Steps of the outer loop")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  command
      ->add_option("--outer-lr", config.outer.learning_rate,
                   "Learning rate of the outer loop (Adam)")
      ->check(CheckRate)
      ->capture_default_str();
  command->add_option("--meta-batch", config.outer.meta_batch, "Tasks per outer step")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--seed", config.seed, "Seed of the tasks and the initial parameters")
      ->check(CheckSeed)
      ->capture_default_str();
  AddChoice<DType>(*command, "--dtype", config.attention.dtype, client::DTypeName,
                   {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16},
                   "Element type of the tensors sent and received");
  AddChoice<Implementation>(*command, "--implementation", config.attention.implementation,
                            client::ImplementationName,
                            {Implementation::kAuto, Implementation::kFused,
                             Implementation::kUnfused, Implementation::kReference},
                            "Implementation on the server");
  command->add_option("--json", flags->json, "Write the result as JSON; - is standard output");
  command->callback([flags, exit_code] { *exit_code = RunMamlCommand(*flags); });
}

}  // namespace theria::cli
