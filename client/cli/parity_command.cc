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
  std::string reference;
  std::string suite = "quick";
  std::string json;
};

absl::StatusOr<std::vector<ParityResult>> Run(const Target& target, const Target& reference,
                                              Suite suite) {
  const std::vector<ParityCase> cases = PlanParity(suite, target.info);
  ProgressBar progress("parity", cases.size());
  return RunParity(*target.client, target.info, *reference.client, cases,
                   [&](const ParityResult& result) { progress.Advance(result.what.Name()); });
}

int RunParityCommand(const Flags& flags) {
  const std::optional<Target> target = OpenTarget(flags.target, flags.connection);
  if (!target.has_value()) return kUnusable;
  const std::optional<Target> reference = OpenTarget(flags.reference, flags.connection);
  if (!reference.has_value()) return kUnusable;

  const Suite suite = flags.suite == "full" ? Suite::kFull : Suite::kQuick;
  const absl::Time start = absl::Now();
  const absl::StatusOr<std::vector<ParityResult>> results = Run(*target, *reference, suite);
  if (!results.ok()) {
    PrintError(flags.target, "parity with " + flags.reference + " ended", results.status());
    return kEnded;
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  const ParityCounts counts = Count(*results);
  if (counts.held + counts.failed == 0) {
    std::fprintf(stderr, "theria: %s: lists no kernel to check\n", flags.target.c_str());
    return kUnusable;
  }
  if (!flags.json.empty()) {
    nlohmann::ordered_json document = {
        {"target", flags.target},       {"target_version", target->info.version},
        {"reference", flags.reference}, {"reference_version", reference->info.version},
        {"suite", flags.suite},         {"seconds", seconds}};
    document.update(ParityJson(*results));
    if (!WriteJson(document, flags.json)) return kUnusable;
  }
  if (flags.json != "-") {
    std::printf("parity of %s with %s, suite %s, %.1f s\n\n%s", flags.target.c_str(),
                flags.reference.c_str(), flags.suite.c_str(), seconds,
                FormatParity(*results).c_str());
  }
  return counts.failed > 0 ? kFailed : kHeld;
}

}  // namespace

void AddParityCommand(CLI::App& app, int* exit_code) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "parity", "Compare forward, VJP, JVP and HVP of a server with a reference server");
  command->add_option("TARGET", flags->target, "host:port or unix:PATH")->required();
  AddConnectionFlags(*command, flags->connection);
  command->add_option("--reference", flags->reference, "The server that is right")->required();
  command->add_option("--suite", flags->suite, "How much to check")
      ->check(CLI::IsMember({"quick", "full"}))
      ->capture_default_str();
  command->add_option("--json", flags->json, "Write every case as JSON; - is standard output");
  command->callback([flags, exit_code] { *exit_code = RunParityCommand(*flags); });
}

}  // namespace theria::cli
