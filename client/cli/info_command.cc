#include "client/cli/info_command.h"

#include <cstdio>
#include <memory>
#include <optional>

#include "absl/strings/str_format.h"
#include "client/cli/exit_code.h"
#include "client/cli/json_file.h"
#include "client/cli/table.h"
#include "client/cli/target.h"
#include "client/cli/units.h"

namespace theria::cli {
namespace {

std::string HeadDims(const client::KernelSupport& kernel) {
  std::string text = absl::StrFormat("%d to %d", kernel.min_head_dim, kernel.max_head_dim);
  if (kernel.head_dim_multiple > 1) {
    text += absl::StrFormat(", multiples of %d", kernel.head_dim_multiple);
  }
  return text;
}

std::string Limits(const client::ServerLimits& limits) {
  Table table({{"limit"}, {"value", Align::kRight}});
  table.AddRow({"one message", FormatBytes(limits.max_message_bytes)});
  table.AddRow({"one resident tensor", FormatBytes(limits.max_tensor_bytes)});
  table.AddRow({"queued requests", std::to_string(limits.max_queued_requests)});
  table.AddRow({"queued bytes", FormatBytes(limits.max_queued_bytes)});
  table.AddRow({"lease, default", absl::FormatDuration(limits.default_ttl)});
  table.AddRow({"lease, longest", absl::FormatDuration(limits.max_ttl)});
  table.AddRow({"pin, longest", absl::FormatDuration(limits.max_pin)});
  table.AddRow({"benchmark repetitions", std::to_string(limits.max_benchmark_repetitions)});
  return table.ToString();
}

int RunInfo(const std::string& name, const client::ClientOptions& connection,
            const std::string& json_path) {
  const std::optional<Target> target = OpenTarget(name, connection);
  if (!target.has_value()) return kUnusable;
  if (!json_path.empty() && !WriteJson(InfoJson(name, target->info), json_path)) return kUnusable;
  if (json_path != "-") std::fputs(FormatInfo(name, target->info).c_str(), stdout);
  return kHeld;
}

}  // namespace

std::string FormatInfo(const std::string& target, const client::ServerInfo& info) {
  std::string text = absl::StrFormat(
      "theria %s at %s\nbackend %s, up %s%s%s\n\n", info.version, target, info.backend,
      absl::FormatDuration(absl::Trunc(info.uptime, absl::Seconds(1))),
      info.commit.empty() ? "" : ", revision ", info.commit);

  Table devices({{"device"}, {"name"}, {"architecture"}, {"memory", Align::kRight}});
  for (const client::DeviceInfo& device : info.devices) {
    devices.AddRow({device.id, device.name, device.architecture, FormatBytes(device.memory_bytes)});
  }
  Table kernels({{"operation"}, {"implementation"}, {"dtype"}, {"head dimensions"}});
  for (const client::KernelSupport& kernel : info.kernels) {
    kernels.AddRow({std::string(client::OperationName(kernel.operation)),
                    std::string(client::ImplementationName(kernel.implementation)),
                    std::string(client::DTypeName(kernel.dtype)), HeadDims(kernel)});
  }
  text += devices.ToString() + "\n" + kernels.ToString() + "\n" + Limits(info.limits);
  text +=
      absl::StrFormat("\ntensor store: %s of %s in %d tensors\nshared memory: %s\n",
                      FormatBytes(info.store.used_bytes), FormatBytes(info.store.capacity_bytes),
                      info.store.entries, info.shared_memory ? "yes" : "no");
  return text;
}

nlohmann::ordered_json InfoJson(const std::string& target, const client::ServerInfo& info) {
  nlohmann::ordered_json document = {{"target", target},
                                     {"version", info.version},
                                     {"commit", info.commit},
                                     {"backend", info.backend},
                                     {"uptime_seconds", absl::ToDoubleSeconds(info.uptime)},
                                     {"shared_memory", info.shared_memory}};
  document["devices"] = nlohmann::ordered_json::array();
  for (const client::DeviceInfo& device : info.devices) {
    document["devices"].push_back({{"id", device.id},
                                   {"name", device.name},
                                   {"architecture", device.architecture},
                                   {"memory_bytes", device.memory_bytes}});
  }
  document["kernels"] = nlohmann::ordered_json::array();
  for (const client::KernelSupport& kernel : info.kernels) {
    document["kernels"].push_back(
        {{"operation", client::OperationName(kernel.operation)},
         {"implementation", client::ImplementationName(kernel.implementation)},
         {"dtype", client::DTypeName(kernel.dtype)},
         {"min_head_dim", kernel.min_head_dim},
         {"max_head_dim", kernel.max_head_dim},
         {"head_dim_multiple", kernel.head_dim_multiple}});
  }
  document["limits"] = {{"max_message_bytes", info.limits.max_message_bytes},
                        {"max_tensor_bytes", info.limits.max_tensor_bytes},
                        {"max_queued_requests", info.limits.max_queued_requests},
                        {"max_queued_bytes", info.limits.max_queued_bytes},
                        {"default_ttl_seconds", absl::ToDoubleSeconds(info.limits.default_ttl)},
                        {"max_ttl_seconds", absl::ToDoubleSeconds(info.limits.max_ttl)},
                        {"max_pin_seconds", absl::ToDoubleSeconds(info.limits.max_pin)},
                        {"max_benchmark_repetitions", info.limits.max_benchmark_repetitions}};
  document["store"] = {{"capacity_bytes", info.store.capacity_bytes},
                       {"used_bytes", info.store.used_bytes},
                       {"entries", info.store.entries}};
  return document;
}

void AddInfoCommand(CLI::App& app, int* exit_code) {
  struct Flags {
    std::string target;
    client::ClientOptions connection;
    std::string json;
  };
  const auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("info", "Show a server's version, devices, kernels and limits");
  command->add_option("TARGET", flags->target, "host:port or unix:PATH")->required();
  command->add_option("--json", flags->json, "Write the result as JSON; - is standard output");
  AddConnectionFlags(*command, flags->connection);
  command->callback(
      [flags, exit_code] { *exit_code = RunInfo(flags->target, flags->connection, flags->json); });
}

}  // namespace theria::cli
