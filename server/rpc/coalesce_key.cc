#include "server/rpc/coalesce_key.h"

#include <cstdint>
#include <limits>
#include <type_traits>

namespace theria::server {
namespace {

// Appends the bytes of numbers, each of a fixed size, so that no two sequences look alike.
class KeyWriter {
 public:
  template <typename Number>
  KeyWriter& Add(Number value) {
    static_assert(std::is_arithmetic_v<Number> || std::is_enum_v<Number>);
    key_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  std::string Take() { return std::move(key_); }

 private:
  std::string key_;
};

void AddOptions(const AttentionOptions& options, KeyWriter& key) {
  constexpr std::int64_t kUnbounded = std::numeric_limits<std::int64_t>::max();
  const Window window = options.window.value_or(Window{});
  key.Add(options.is_causal)
      .Add(options.window.has_value())
      .Add(window.left.value_or(kUnbounded))
      .Add(window.right.value_or(kUnbounded))
      .Add(options.dropout.probability)
      .Add(options.dropout.seed)
      .Add(options.dropout.offset)
      .Add(options.precision)
      .Add(options.implementation)
      .Add(options.mask.has_value());
  if (!options.mask.has_value()) return;
  key.Add(options.mask->dtype).Add(options.mask->rank);
  for (int axis = 0; axis < options.mask->rank; ++axis) {
    key.Add(options.mask->shape[axis]).Add(options.mask->strides[axis]);
  }
}

}  // namespace

std::string CoalesceKey(const AttentionTask& task) {
  const AttentionProblem& problem = task.problem;
  KeyWriter key;
  key.Add(problem.operation).Add(problem.dtype).Add(problem.scale);
  for (const std::int64_t size : {problem.batch, problem.heads_q, problem.heads_kv, problem.seq_q,
                                  problem.seq_kv, problem.head_dim, problem.head_dim_v}) {
    key.Add(size);
  }
  AddOptions(task.inputs.options, key);
  for (const InputField& field : kInputFields) {
    key.Add((task.inputs.*field.member).has_value());
  }
  for (const PlannedOutput& output : task.outputs) key.Add(output.wire->number());
  return key.Take();
}

}  // namespace theria::server
