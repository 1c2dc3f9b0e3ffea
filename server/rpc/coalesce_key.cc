#include "server/rpc/coalesce_key.h"

#include <cstdint>
#include <optional>
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
  ForEachScalarOption(options, [&key](auto value) { key.Add(value); });
  for (const OptionTensor& tensor : kOptionTensors) {
    const std::optional<TensorView>& view = options.*tensor.member;
    key.Add(view.has_value());
    if (!view.has_value()) continue;
    key.Add(view->dtype).Add(view->rank);
    for (int axis = 0; axis < view->rank; ++axis) {
      key.Add(view->shape[axis]).Add(view->strides[axis]);
    }
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
