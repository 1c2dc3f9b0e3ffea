#include "tests/conformance/target.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <utility>

#include "kernels/cpu/backend.h"
#include "kernels/cuda/backend.h"

namespace theria::conformance {
namespace {

// Tensors in the memory of a backend. What starts at an odd address on the host starts at the next
// element where only the device accesses it.
class Device {
 public:
  explicit Device(Memory& memory) : memory_(memory) {}

  absl::StatusOr<TensorView> Upload(const HostTensor& tensor) {
    const std::size_t item_bytes = ItemSizeBytes(tensor.dtype);
    const std::size_t odd_bytes = static_cast<std::size_t>(tensor.offset_bytes) % item_bytes;
    const std::size_t lead =
        memory_.host_accessible() || odd_bytes == 0 ? 0 : item_bytes - odd_bytes;
    absl::StatusOr<Buffer> buffer = memory_.Allocate(lead + tensor.bytes.size());
    if (!buffer.ok()) return buffer.status();
    char* const data = static_cast<char*>(buffer->data()) + lead;
    buffers_.push_back(*std::move(buffer));
    const absl::Status status =
        memory_.CopyFromHost(data, tensor.bytes.data(), tensor.bytes.size());
    if (!status.ok()) return status;
    return tensor.View(data);
  }

  absl::Status Download(HostTensor& tensor, const MutableTensorView& view) {
    return memory_.CopyToHost(tensor.bytes.data(),
                              static_cast<char*>(view.data) - tensor.offset_bytes,
                              tensor.bytes.size());
  }

 private:
  Memory& memory_;
  std::list<Buffer> buffers_;
};

MutableTensorView Mutable(const TensorView& view) {
  return {const_cast<void*>(view.data), view.dtype, view.rank, view.shape, view.strides};
}

bool Takes(Operation operation, std::string_view input) {
  if (input == "lse_bar") return operation == Operation::kVjp || operation == Operation::kHvp;
  if (input == "lse_bar_dot") return operation == Operation::kHvp;
  const bool tangents = operation == Operation::kJvp || operation == Operation::kHvp;
  if (input == "q" || input == "k" || input == "v") return true;
  if (input == "o" || input == "lse") return operation != Operation::kForward;
  if (input == "o_bar") return operation == Operation::kVjp || operation == Operation::kHvp;
  if (input == "o_bar_dot") return operation == Operation::kHvp;
  return tangents;
}

// An output that nothing has been written to: NaN everywhere.
HostTensor Unwritten(const MutableTensorView& layout, Layout memory_layout) {
  Array array = Zeros({layout.shape.begin(), layout.shape.begin() + layout.rank});
  HostTensor tensor = Encode(array, layout.dtype, memory_layout);
  std::fill(tensor.bytes.begin(), tensor.bytes.end(), 0xFF);
  return tensor;
}

// One computation's tensors in the memory of a target's backend.
class Call {
 public:
  explicit Call(const Target& target) : target_(target), device_(target.backend->memory()) {}

  absl::Status Prepare(Operation operation, const Problem& problem, const OutputNames& outputs,
                       Layout output_layout) {
    inputs_.options = problem.shape.options;
    inputs_.options.implementation = target_.implementation;
    inputs_.options.precision = target_.precision;
    for (const InputField& field : kInputFields) {
      const auto tensor = problem.inputs.find(std::string(field.name));
      if (tensor == problem.inputs.end() || !Takes(operation, field.name)) continue;
      absl::StatusOr<TensorView> view = device_.Upload(tensor->second);
      if (!view.ok()) return view.status();
      inputs_.*field.member = *view;
    }
    if (problem.mask.has_value()) {
      absl::StatusOr<TensorView> view = device_.Upload(*problem.mask);
      if (!view.ok()) return view.status();
      inputs_.options.mask = *view;
    }
    for (const OptionTensor& option : kOptionTensors) {
      const auto tensor = problem.option_tensors.find(std::string(option.name));
      if (tensor == problem.option_tensors.end()) continue;
      absl::StatusOr<TensorView> view = device_.Upload(tensor->second);
      if (!view.ok()) return view.status();
      inputs_.options.*option.member = *view;
    }
    absl::StatusOr<AttentionProblem> valid = Validate(operation, inputs_);
    if (!valid.ok()) return valid.status();
    problem_ = *valid;
    for (const OutputField& field : kOutputFields) {
      const std::string name(field.name);
      const bool wanted =
          outputs.empty() || std::find(outputs.begin(), outputs.end(), name) != outputs.end();
      if (!wanted || !IsComputed(problem, operation, name)) continue;
      tensors_[name] = Unwritten(OutputLayout(problem_, name), output_layout);
      absl::StatusOr<TensorView> view = device_.Upload(tensors_[name]);
      if (!view.ok()) return view.status();
      outputs_.*field.member = Mutable(*view);
    }
    return absl::OkStatus();
  }

  const AttentionProblem& problem() const { return problem_; }
  const AttentionInputs& inputs() const { return inputs_; }
  const AttentionOutputs& outputs() const { return outputs_; }

  // The outputs after a run that ended with `ran`.
  absl::StatusOr<HostTensors> Results(const absl::Status& ran) {
    if (!ran.ok()) return ran;
    for (const OutputField& field : kOutputFields) {
      const std::optional<MutableTensorView>& view = outputs_.*field.member;
      if (!view.has_value()) continue;
      const absl::Status status = device_.Download(tensors_[std::string(field.name)], *view);
      if (!status.ok()) return status;
    }
    return tensors_;
  }

 private:
  const Target& target_;
  Device device_;
  AttentionProblem problem_;
  AttentionInputs inputs_;
  AttentionOutputs outputs_;
  HostTensors tensors_;
};

}  // namespace

std::ostream& operator<<(std::ostream& out, const Target& target) { return out << target.name; }

const std::vector<Target>& Targets() {
  static Backend& cpu = *MakeCpuBackend({.threads = 4}).release();
  static const std::vector<Target>& targets = *[] {
    auto* all = new std::vector<Target>{
        {"cpu_reference", &cpu, Implementation::kReference, Arithmetic::kFloat64},
    };
    if (CudaDeviceCount() == 0) return all;
    Backend* const cuda = MakeCudaBackend()->release();  // a GPU that does not work fails the suite
    all->push_back({"cuda_fused", cuda, Implementation::kFused, Arithmetic::kAccumulator});
    all->push_back(
        {"cuda_fused_fast", cuda, Implementation::kFused, Arithmetic::kTf32, Precision::kFast});
    all->push_back({"cuda_unfused", cuda, Implementation::kUnfused, Arithmetic::kAccumulator});
    return all;
  }();
  return targets;
}

bool IsComputed(const Problem& problem, Operation operation, const std::string& output) {
  return HasOutput(operation, output) && (!IsOfBias(output) || problem.has_bias());
}

absl::StatusOr<HostTensors> RunTensors(const Target& target, Operation operation,
                                       const Problem& problem, const OutputNames& outputs,
                                       const Interrupt& interrupt, Layout output_layout) {
  Call call(target);
  absl::Status prepared = call.Prepare(operation, problem, outputs, output_layout);
  if (!prepared.ok()) return prepared;
  return call.Results(
      target.backend->Run(call.problem(), call.inputs(), call.outputs(), interrupt).status());
}

std::vector<absl::StatusOr<HostTensors>> RunTensorsTogether(const Target& target,
                                                            Operation operation,
                                                            const std::vector<Problem>& problems) {
  std::list<Call> calls;
  std::vector<Computation> computations;
  for (const Problem& problem : problems) {
    Call& call = calls.emplace_back(target);
    const absl::Status prepared = call.Prepare(operation, problem, {}, Layout::kRowMajor);
    if (!prepared.ok()) return {prepared};
    computations.push_back({&call.inputs(), &call.outputs(), &NoInterrupt()});
  }
  target.backend->RunTogether(calls.front().problem(), absl::MakeSpan(computations));
  std::vector<absl::StatusOr<HostTensors>> results;
  for (auto [call, one] = std::pair(calls.begin(), computations.begin()); call != calls.end();
       ++call, ++one) {
    results.push_back(call->Results(one->report.status()));
  }
  return results;
}

Arrays RunArrays(const Target& target, Operation operation, const Problem& problem,
                 const OutputNames& outputs) {
  const absl::StatusOr<HostTensors> tensors = RunTensors(target, operation, problem, outputs);
  EXPECT_TRUE(tensors.ok()) << tensors.status();
  Arrays arrays;
  if (!tensors.ok()) return arrays;
  for (const auto& [name, tensor] : *tensors) arrays[name] = Decode(tensor);
  return arrays;
}

}  // namespace theria::conformance
