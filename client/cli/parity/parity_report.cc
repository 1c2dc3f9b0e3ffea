#include "client/cli/parity/parity_report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/cli/table.h"

namespace theria::cli {
namespace {

// The cases of one operation in one row of the table.
struct Cell {
  int run = 0;
  int failed = 0;
  int skipped = 0;
  double worst = 0.0;

  void Add(const ParityResult& result) {
    if (result.outcome == Outcome::kSkipped) {
      ++skipped;
      return;
    }
    ++run;
    if (result.outcome == Outcome::kFailed) ++failed;
    worst = std::max(worst, result.Ratio());
  }

  std::string ToString() const {
    if (run == 0) return skipped == 0 ? "" : absl::StrFormat("%d skipped", skipped);
    std::string text = absl::StrFormat("%d  %s%.2g", run, failed > 0 ? "FAIL " : "", worst);
    if (skipped > 0) text += absl::StrFormat(" (%d skipped)", skipped);
    return text;
  }
};

using Row = std::array<Cell, 4>;  // by Operation
using RowKey = std::tuple<client::Implementation, client::DType, int>;

std::string RowLabel(const ParityCase& what) {
  if (!what.identity.has_value()) return what.problem.option_class;
  return std::string(IdentityName(*what.identity));
}

// Rows in the order of the plan, under their implementation and dtype; identities come last.
Table Summary(const std::vector<ParityResult>& results) {
  std::vector<std::string> labels;
  for (const ParityResult& result : results) {
    const std::string& options = result.what.problem.option_class;
    if (std::find(labels.begin(), labels.end(), options) == labels.end()) {
      labels.push_back(options);
    }
  }
  std::map<RowKey, Row> rows;
  for (const ParityResult& result : results) {
    const std::string label = RowLabel(result.what);
    auto found = std::find(labels.begin(), labels.end(), label);
    if (found == labels.end()) found = labels.insert(labels.end(), label);
    const RowKey key = {result.what.implementation, result.what.dtype,
                        static_cast<int>(found - labels.begin())};
    rows[key][static_cast<std::size_t>(result.what.operation)].Add(result);
  }
  Table table({{"implementation"},
               {"dtype"},
               {"options"},
               {"forward", Align::kRight},
               {"vjp", Align::kRight},
               {"jvp", Align::kRight},
               {"hvp", Align::kRight}});
  for (const auto& [key, row] : rows) {
    const auto& [implementation, dtype, label] = key;
    table.AddRow({std::string(client::ImplementationName(implementation)),
                  std::string(client::DTypeName(dtype)), labels[static_cast<std::size_t>(label)],
                  row[0].ToString(), row[1].ToString(), row[2].ToString(), row[3].ToString()});
  }
  return table;
}

std::string NotOffered(const std::vector<ParityResult>& results) {
  std::string text;
  for (const client::Implementation implementation :
       {client::Implementation::kFused, client::Implementation::kUnfused,
        client::Implementation::kReference}) {
    const bool offered = std::any_of(results.begin(), results.end(), [&](const auto& result) {
      return result.what.implementation == implementation;
    });
    if (!offered) {
      text += absl::StrFormat("not offered by the target: %s\n",
                              std::string(client::ImplementationName(implementation)));
    }
  }
  return text;
}

std::string_view OutcomeName(Outcome outcome) {
  switch (outcome) {
    case Outcome::kHeld:
      return "held";
    case Outcome::kFailed:
      return "failed";
    case Outcome::kSkipped:
      return "skipped";
  }
  return "unknown";
}

nlohmann::ordered_json ComparisonJson(const Comparison& comparison) {
  nlohmann::ordered_json json = {{"name", comparison.name},
                                 {"norm_error", comparison.norm_error},
                                 {"norm_tolerance", comparison.tolerance.norm},
                                 {"max_error", comparison.max_error},
                                 {"max_tolerance", comparison.tolerance.max}};
  if (!comparison.violation.empty()) json["violation"] = comparison.violation;
  return json;
}

}  // namespace

ParityCounts Count(const std::vector<ParityResult>& results) {
  ParityCounts counts;
  for (const ParityResult& result : results) {
    if (result.outcome == Outcome::kHeld) ++counts.held;
    if (result.outcome == Outcome::kFailed) ++counts.failed;
    if (result.outcome == Outcome::kSkipped) ++counts.skipped;
  }
  return counts;
}

std::string FormatParity(const std::vector<ParityResult>& results) {
  std::string text = Summary(results).ToString();
  text += "\ncells: cases, worst error in units of its tolerance\n" + NotOffered(results);
  std::set<std::string> skips;
  for (const ParityResult& result : results) {
    if (result.outcome == Outcome::kSkipped) {
      skips.insert(
          absl::StrFormat("skipped: %s %s: %s\n",
                          std::string(client::ImplementationName(result.what.implementation)),
                          std::string(client::DTypeName(result.what.dtype)), result.reason));
    }
  }
  for (const std::string& skip : skips) text += skip;
  for (const ParityResult& result : results) {
    if (result.outcome != Outcome::kFailed) continue;
    text += absl::StrFormat("FAILED %s: %s\n", result.what.Name(), result.reason);
  }
  const ParityCounts counts = Count(results);
  text += absl::StrFormat("\n%d held, %d failed, %d skipped\n", counts.held, counts.failed,
                          counts.skipped);
  return text;
}

nlohmann::ordered_json ParityJson(const std::vector<ParityResult>& results) {
  nlohmann::ordered_json cases = nlohmann::ordered_json::array();
  for (const ParityResult& result : results) {
    const ParityCase& what = result.what;
    nlohmann::ordered_json json = {
        {"name", what.Name()},
        {"check", what.identity.has_value() ? IdentityName(*what.identity) : "reference"},
        {"implementation", client::ImplementationName(what.implementation)},
        {"dtype", client::DTypeName(what.dtype)},
        {"operation", client::OperationName(what.operation)},
        {"options", what.problem.option_class},
        {"sizes", what.problem.Sizes()},
        {"outcome", OutcomeName(result.outcome)}};
    if (!result.reason.empty()) json["reason"] = result.reason;
    if (!result.comparisons.empty()) {
      json["ratio"] = result.Ratio();
      json["comparisons"] = nlohmann::ordered_json::array();
      for (const Comparison& comparison : result.comparisons) {
        json["comparisons"].push_back(ComparisonJson(comparison));
      }
    }
    if (!result.execution.kernel.empty()) {
      json["kernel"] = result.execution.kernel;
      json["device"] = result.execution.device;
      json["compute_seconds"] = absl::ToDoubleSeconds(result.execution.compute_time);
      json["rpc_seconds"] = absl::ToDoubleSeconds(result.execution.rpc_time);
    }
    cases.push_back(std::move(json));
  }
  const ParityCounts counts = Count(results);
  return {{"held", counts.held},
          {"failed", counts.failed},
          {"skipped", counts.skipped},
          {"cases", std::move(cases)}};
}

}  // namespace theria::cli
