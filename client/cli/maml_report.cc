#include "client/cli/maml_report.h"

#include <string_view>

#include "absl/strings/str_format.h"
#include "client/cli/table.h"
#include "client/cli/units.h"

namespace theria::cli {
namespace {

constexpr std::size_t kMaxRows = 20;

std::string OperationName(std::size_t index) {
  return std::string(client::OperationName(static_cast<client::Operation>(index)));
}

maml::CallStatistics Total(const MamlReport& report) {
  maml::CallStatistics total;
  for (const maml::CallStatistics& calls : report.calls) total += calls;
  return total;
}

std::string Heading(const std::string& target, const MamlConfig& config) {
  return absl::StrFormat(
      "theria maml at %s\nmode %s, %s, %s, seed %d\ninner loop: %d steps, rate %g\n"
      "outer loop: %d steps of %d tasks, Adam, rate %g\n",
      target, std::string(maml::ModeName(config.mode)),
      std::string(client::DTypeName(config.attention.dtype)),
      std::string(client::ImplementationName(config.attention.implementation)), config.seed,
      config.inner.steps, config.inner.learning_rate, config.outer.steps, config.outer.meta_batch,
      config.outer.learning_rate);
}

Table StepTable(const MamlReport& report) {
  Table table({{"step", Align::kRight},
               {"loss before", Align::kRight},
               {"accuracy", Align::kRight},
               {"loss after", Align::kRight},
               {"accuracy", Align::kRight},
               {"|meta-gradient|", Align::kRight}});
  const std::size_t stride = (report.steps.size() + kMaxRows - 1) / kMaxRows;
  for (std::size_t i = 0; i < report.steps.size(); ++i) {
    if (i % stride != 0 && i + 1 != report.steps.size()) continue;
    const maml::OuterStep& step = report.steps[i];
    table.AddRow({std::to_string(step.index), absl::StrFormat("%.6f", step.before.loss),
                  absl::StrFormat("%.3f", step.before.accuracy),
                  absl::StrFormat("%.6f", step.after.loss),
                  absl::StrFormat("%.3f", step.after.accuracy),
                  absl::StrFormat("%.6g", step.gradient_norm)});
  }
  return table;
}

std::string YesNo(bool value) { return value ? "yes" : "no"; }

Table CheckTable(const MamlCheck& check) {
  Table table({{"at the initial parameters, task 0"},
               {"server", Align::kRight},
               {"float64 here", Align::kRight}});
  const auto add = [&](const std::string& name, double server, double here) {
    table.AddRow({name, absl::StrFormat("%.10g", server), absl::StrFormat("%.10g", here)});
  };
  add("|full meta-gradient|", check.server.full.norm(), check.here.full.norm());
  add("|first-order meta-gradient|", check.server.first_order.norm(),
      check.here.first_order.norm());
  add("rel_diff = |full - first-order| / |full|", check.server.rel_diff, check.here.rel_diff);
  add("norm of the second-order probe", check.server.probe_norm, check.here.probe_norm);
  table.AddRow({"second_order_path", YesNo(check.server.second_order_path),
                YesNo(check.here.second_order_path)});
  return table;
}

std::string Verdict(const MamlCheck& check) {
  return absl::StrFormat(
      "error of the meta-gradients %.3g, limit %.3g; second-order path must be %s: %s\n",
      check.error, check.error_limit, check.expected_second_order_path ? "there" : "absent",
      check.held() ? "held" : "FAILED");
}

Table CallTable(const MamlReport& report) {
  Table table({{"calls"},
               {"number", Align::kRight},
               {"time", Align::kRight},
               {"compute", Align::kRight},
               {"queue", Align::kRight},
               {"transport", Align::kRight},
               {"conversion", Align::kRight}});
  const auto add = [&](const std::string& name, const maml::CallStatistics& calls) {
    table.AddRow({name, std::to_string(calls.calls), cli::FormatDuration(calls.total_time),
                  cli::FormatDuration(calls.compute_time), cli::FormatDuration(calls.queue_time),
                  cli::FormatDuration(calls.rpc_time - calls.queue_time - calls.compute_time),
                  cli::FormatDuration(calls.total_time - calls.rpc_time)});
  };
  for (std::size_t i = 0; i < report.calls.size(); ++i) add(OperationName(i), report.calls[i]);
  add("all", Total(report));
  return table;
}

nlohmann::ordered_json CallsJson(const maml::CallStatistics& calls) {
  return {{"calls", calls.calls},
          {"total_seconds", absl::ToDoubleSeconds(calls.total_time)},
          {"rpc_seconds", absl::ToDoubleSeconds(calls.rpc_time)},
          {"queue_seconds", absl::ToDoubleSeconds(calls.queue_time)},
          {"compute_seconds", absl::ToDoubleSeconds(calls.compute_time)}};
}

nlohmann::ordered_json FitJson(const maml::Fit& fit) {
  return {{"loss", fit.loss}, {"accuracy", fit.accuracy}};
}

nlohmann::ordered_json DiagnosticsJson(const maml::Diagnostics& diagnostics) {
  return {{"full_norm", diagnostics.full.norm()},
          {"first_order_norm", diagnostics.first_order.norm()},
          {"rel_diff", diagnostics.rel_diff},
          {"probe_norm", diagnostics.probe_norm},
          {"second_order_path", diagnostics.second_order_path}};
}

nlohmann::ordered_json ConfigJson(const MamlConfig& config) {
  return {{"mode", maml::ModeName(config.mode)},
          {"inner_steps", config.inner.steps},
          {"inner_lr", config.inner.learning_rate},
          {"outer_steps", config.outer.steps},
          {"outer_lr", config.outer.learning_rate},
          {"meta_batch", config.outer.meta_batch},
          {"seed", config.seed},
          {"dtype", client::DTypeName(config.attention.dtype)},
          {"implementation", client::ImplementationName(config.attention.implementation)}};
}

}  // namespace

std::string FormatMaml(const std::string& target, const MamlConfig& config,
                       const MamlReport& report) {
  const absl::Duration here = report.wall_time - Total(report).total_time;
  return Heading(target, config) + "\n" + StepTable(report).ToString() + "\n" +
         CheckTable(report.check).ToString() + Verdict(report.check) + "\n" +
         CallTable(report).ToString() +
         absl::StrFormat(
             "outer loop %s, of which %s in this process; %d further calls for the check\n",
             cli::FormatDuration(report.wall_time), cli::FormatDuration(here),
             report.check_calls.calls);
}

nlohmann::ordered_json MamlJson(const std::string& target, const MamlConfig& config,
                                const MamlReport& report) {
  nlohmann::ordered_json document = {
      {"target", target}, {"held", report.check.held()}, {"config", ConfigJson(config)}};
  document["check"] = {{"server", DiagnosticsJson(report.check.server)},
                       {"float64_here", DiagnosticsJson(report.check.here)},
                       {"error", report.check.error},
                       {"error_limit", report.check.error_limit},
                       {"expected_second_order_path", report.check.expected_second_order_path},
                       {"calls", CallsJson(report.check_calls)}};
  document["steps"] = nlohmann::ordered_json::array();
  for (const maml::OuterStep& step : report.steps) {
    document["steps"].push_back({{"step", step.index},
                                 {"before", FitJson(step.before)},
                                 {"after", FitJson(step.after)},
                                 {"gradient_norm", step.gradient_norm}});
  }
  for (std::size_t i = 0; i < report.calls.size(); ++i) {
    document["calls"][OperationName(i)] = CallsJson(report.calls[i]);
  }
  document["calls"]["all"] = CallsJson(Total(report));
  document["wall_seconds"] = absl::ToDoubleSeconds(report.wall_time);
  return document;
}

}  // namespace theria::cli
