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

absl::StatusOr<HostTensors> RunTensors(const Target& target, Operation operation,
                                       const Problem& problem, const OutputNames& outputs,
                                       const Interrupt& interrupt, Layout output_layout) {
  Device device(target.backend->memory());
  AttentionInputs inputs;
  inputs.options = problem.shape.options;
  inputs.options.implementation = target.implementation;
  inputs.options.precision = target.precision;
  for (const InputField& field : kInputFields) {
    const auto tensor = problem.inputs.find(std::string(field.name));
    if (tensor == problem.inputs.end() || !Takes(operation, field.name)) continue;
    absl::StatusOr<TensorView> view = device.Upload(tensor->second);
    if (!view.ok()) return view.status();
    inputs.*field.member = *view;
  }
  if (problem.mask.has_value()) {
    absl::StatusOr<TensorView> view = device.Upload(*problem.mask);
    if (!view.ok()) return view.status();
    inputs.options.mask = *view;
  }
  const absl::StatusOr<AttentionProblem> valid = Validate(operation, inputs);
  if (!valid.ok()) return valid.status();

  AttentionOutputs views;
  HostTensors tensors;
  for (const OutputField& field : kOutputFields) {
    const std::string name(field.name);
    const bool wanted =
        outputs.empty() || std::find(outputs.begin(), outputs.end(), name) != outputs.end();
    if (!wanted || !HasOutput(operation, name)) continue;
    tensors[name] = Unwritten(OutputLayout(*valid, name), output_layout);
    absl::StatusOr<TensorView> view = device.Upload(tensors[name]);
    if (!view.ok()) return view.status();
    views.*field.member = Mutable(*view);
  }
  const absl::StatusOr<ComputeReport> report =
      target.backend->Run(*valid, inputs, views, interrupt);
  if (!report.ok()) return report.status();
  for (const OutputField& field : kOutputFields) {
    const std::optional<MutableTensorView>& view = views.*field.member;
    if (!view.has_value()) continue;
    const absl::Status status = device.Download(tensors[std::string(field.name)], *view);
    if (!status.ok()) return status;
  }
  return tensors;
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
