#include "client/cli/parity_command.h"

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/exit_code.h"
#include "client/cli/json_file.h"
#include "client/cli/parity/parity.h"
#include "client/cli/parity/parity_report.h"
#include "client/cli/progress_bar.h"
#include "client/cli/target.h"

namespace theria::cli {
namespace {

struct Flags {
  std::string target;
  client::ClientOptions connection;
  std::string reference;  // empty: explicit attention in this process
  std::string suite = "quick";
  std::string json;
};

absl::StatusOr<std::vector<ParityResult>> Run(const Target& target,
                                              const std::optional<Target>& reference, Suite suite) {
  const std::vector<ParityCase> cases = PlanParity(suite, target.info);
  ProgressBar progress("parity", cases.size());
  return RunParity(*target.client, target.info,
                   reference.has_value() ? reference->client.get() : nullptr, cases,
                   [&](const ParityResult& result) { progress.Advance(result.what.Name()); });
}

int RunParityCommand(const Flags& flags) {
  const std::optional<Target> target = OpenTarget(flags.target, flags.connection);
  if (!target.has_value()) return kUnusable;
  std::optional<Target> reference;
  if (!flags.reference.empty()) {
    reference = OpenTarget(flags.reference, flags.connection);
    if (!reference.has_value()) return kUnusable;
  }
  const std::string reference_name =
      reference.has_value() ? flags.reference : "explicit float64 attention";

  const Suite suite = flags.suite == "full" ? Suite::kFull : Suite::kQuick;
  const absl::Time start = absl::Now();
  const absl::StatusOr<std::vector<ParityResult>> results = Run(*target, reference, suite);
  if (!results.ok()) {
    PrintError(flags.target, "parity with " + reference_name + " ended", results.status());
    return kEnded;
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  const ParityCounts counts = Count(*results);
  if (counts.held + counts.failed == 0) {
    std::fprintf(stderr, "theria: %s: lists no kernel to check\n", flags.target.c_str());
    return kUnusable;
  }
  if (!flags.json.empty()) {
    nlohmann::ordered_json document = {{"target", flags.target},
                                       {"target_version", target->info.version},
                                       {"reference", reference_name}};
    if (reference.has_value()) document["reference_version"] = reference->info.version;
    document["suite"] = flags.suite;
    document["seconds"] = seconds;
    document.update(ParityJson(*results));
    if (!WriteJson(document, flags.json)) return kUnusable;
  }
  if (flags.json != "-") {
    std::printf("parity of %s with %s, suite %s, %.1f s\n\n%s", flags.target.c_str(),
                reference_name.c_str(), flags.suite.c_str(), seconds,
                FormatParity(*results).c_str());
  }
  return counts.failed > 0 ? kFailed : kHeld;
}

}  // namespace

void AddParityCommand(CLI::App& app, int* exit_code) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "parity", "Compare a server's four operations with explicit float64 attention");
  command->add_option("TARGET", flags->target, "host:port or unix:PATH")->required();
  AddConnectionFlags(*command, flags->connection);
  command->add_option("--reference", flags->reference, "Compare with this server instead");
  command->add_option("--suite", flags->suite, "Cases to check: a selection, or all")
      ->check(CLI::IsMember({"quick", "full"}))
      ->capture_default_str();
  command->add_option("--json", flags->json, "Write every case as JSON; - is standard output");
  command->callback([flags, exit_code] { *exit_code = RunParityCommand(*flags); });
}

}  // namespace theria::cli
