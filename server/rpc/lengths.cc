#include "server/rpc/lengths.h"

#include <cstring>

#include "kernels/api/message.h"

namespace theria::server {
namespace {

absl::Status Invalid(std::string_view option, std::size_t index, std::int64_t value,
                     std::string_view rule) {
  return InvalidField(Message("options.", option, "[", index, "]"),
                      Message("is ", value, ", ", rule));
}

absl::Status CheckStarts(std::string_view option, absl::Span<const std::int32_t> starts,
                         std::int64_t end) {
  for (std::size_t index = 0; index < starts.size(); ++index) {
    const std::int64_t start = starts[index];
    if (index == 0 && start != 0) return Invalid(option, index, start, "must be 0");
    if (index > 0 && start < starts[index - 1]) {
      return Invalid(option, index, start, Message("must be at least ", starts[index - 1]));
    }
  }
  if (!starts.empty() && starts.back() != end) {
    return Invalid(option, starts.size() - 1, starts.back(), Message("must be ", end));
  }
  return absl::OkStatus();
}

}  // namespace

bool HasLengths(std::string_view option) {
  return option == "kv_lengths" || option == "cu_seqlens_q" || option == "cu_seqlens_kv";
}

std::vector<std::int32_t> ReadLengths(const TensorView& view) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(view.NumElements()));
  const auto* element = static_cast<const char*>(view.data);
  for (std::int32_t& value : values) {
    std::memcpy(&value, element, sizeof(value));
    element += view.strides[0] * static_cast<std::int64_t>(sizeof(value));
  }
  return values;
}

absl::Status CheckLengths(std::string_view option, absl::Span<const std::int32_t> values,
                          const AttentionProblem& problem) {
  if (option != "kv_lengths") {
    return CheckStarts(option, values, option == "cu_seqlens_q" ? problem.seq_q : problem.seq_kv);
  }
  for (std::size_t index = 0; index < values.size(); ++index) {
    if (values[index] < 0 || values[index] > problem.seq_kv) {
      return Invalid(option, index, values[index], Message("must be in [0, ", problem.seq_kv, "]"));
    }
  }
  return absl::OkStatus();
}

}  // namespace theria::server
