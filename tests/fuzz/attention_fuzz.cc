// Request validation: the first byte chooses the operation, the rest is its serialised request.
// What is accepted is computed by the CPU backend, if it is small, into outputs of exactly the
// sizes that the plan says; what is refused is refused with one of the contract's codes.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/backend.h"
#include "server/rpc/attention_method.h"
#include "server/rpc/coalesce_key.h"
#include "tests/fuzz/expect.h"

namespace theria::server {
namespace {

constexpr AttentionLimits kLimits = {std::size_t{1} << 20, std::size_t{4} << 20,
                                     std::size_t{1} << 20};
constexpr double kMaxFlops = 1e7;

struct Method {
  AttentionMethod method;
  const google::protobuf::Message& request;
};

template <typename Request, typename Response>
Method MakeMethod(Operation operation) {
  return {{operation, *Request::descriptor(), *Response::descriptor()},
          Request::default_instance()};
}

void Compute(const AttentionTask& task) {
  static Backend& backend = *MakeCpuBackend({.threads = 1}).release();
  if (!backend.Supports(task.problem, task.inputs.options).ok()) return;
  AttentionOutputs outputs;
  std::vector<std::vector<char>> memory;
  for (const PlannedOutput& planned : task.outputs) {
    MutableTensorView view = planned.layout;
    view.data = memory.emplace_back(view.SizeBytes()).data();
    outputs.*planned.field.member = view;
  }
  const auto report = backend.Run(task.problem, task.inputs, outputs, NoInterrupt());
  THERIA_FUZZ_EXPECT(report.ok() || absl::IsResourceExhausted(report.status()));
}

void TestOne(const std::uint8_t* data, std::size_t size) {
  static TensorStore store(HostMemory(), {.capacity_bytes = std::size_t{1} << 20});
  static const Method methods[] = {
      MakeMethod<v1::ForwardRequest, v1::ForwardResponse>(Operation::kForward),
      MakeMethod<v1::VjpRequest, v1::VjpResponse>(Operation::kVjp),
      MakeMethod<v1::JvpRequest, v1::JvpResponse>(Operation::kJvp),
      MakeMethod<v1::HvpRequest, v1::HvpResponse>(Operation::kHvp)};
  if (size == 0) return;
  const Method& chosen = methods[data[0] % 4];
  const std::unique_ptr<google::protobuf::Message> request(chosen.request.New());
  if (!request->ParseFromArray(data + 1, static_cast<int>(size) - 1)) return;
  const auto task = chosen.method.Decode(*request, store, TenantId{}, kLimits);
  if (!task.ok()) {
    const absl::StatusCode code = task.status().code();
    THERIA_FUZZ_EXPECT(code == absl::StatusCode::kInvalidArgument ||
                       code == absl::StatusCode::kFailedPrecondition ||
                       code == absl::StatusCode::kUnimplemented);
    return;
  }
  THERIA_FUZZ_EXPECT((*task)->demand.bytes <= kLimits.max_request_bytes);
  THERIA_FUZZ_EXPECT(CoalesceKey(**task) == CoalesceKey(**task));
  if ((*task)->demand.flops <= kMaxFlops) Compute(**task);
}

}  // namespace
}  // namespace theria::server

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  theria::server::TestOne(data, size);
  return 0;
}
