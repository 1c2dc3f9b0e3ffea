// Request validation: the first byte chooses the operation, the rest is its serialised request,
// whose tensors may be Known's. What is accepted is computed by the CPU backend, if it is small,
// into outputs of exactly the sizes that the plan says, those in shared memory apart from each
// other, with not a byte changed outside of the part that the request names for them; what is
// refused is refused with one of the contract's codes.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/backend.h"
#include "server/rpc/attention_method.h"
#include "server/rpc/coalesce_key.h"
#include "tests/fuzz/expect.h"
#include "tests/fuzz/known.h"

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

// The SHARED outputs lie one behind the other in the part that the request names for them.
void CheckPlaces(const AttentionTask& task) {
  std::size_t end_bytes = task.target.offset_bytes;
  for (const PlannedOutput& planned : task.outputs) {
    if (planned.mode != v1::SHARED) {
      THERIA_FUZZ_EXPECT(planned.layout.data == nullptr);
      continue;
    }
    THERIA_FUZZ_EXPECT(planned.offset_bytes >= end_bytes);
    end_bytes = planned.offset_bytes + planned.layout.SizeBytes();
    THERIA_FUZZ_EXPECT(end_bytes <= task.target.offset_bytes + task.target.size_bytes);
    THERIA_FUZZ_EXPECT(planned.layout.data == task.target.region->data() + planned.offset_bytes);
  }
}

void Compute(Known& known, const AttentionTask& task) {
  static Backend& backend = *MakeCpuBackend({.threads = 1}).release();
  if (!backend.Supports(task.problem, task.inputs.options).ok()) return;
  AttentionOutputs outputs;
  std::vector<std::vector<char>> memory;
  for (const PlannedOutput& planned : task.outputs) {
    MutableTensorView view = planned.layout;
    if (planned.mode != v1::SHARED) view.data = memory.emplace_back(view.SizeBytes()).data();
    outputs.*planned.field.member = view;
  }
  const auto report = backend.Run(task.problem, task.inputs, outputs, NoInterrupt());
  THERIA_FUZZ_EXPECT(report.ok() || absl::IsResourceExhausted(report.status()));
  THERIA_FUZZ_EXPECT(known.IsUntouchedBut(task.target));
  if (task.target.region != nullptr) known.Refill();
}

void TestOne(const std::uint8_t* data, std::size_t size) {
  static Known& known = *new Known(HostMemory());
  static const Method methods[] = {
      MakeMethod<v1::ForwardRequest, v1::ForwardResponse>(Operation::kForward),
      MakeMethod<v1::VjpRequest, v1::VjpResponse>(Operation::kVjp),
      MakeMethod<v1::JvpRequest, v1::JvpResponse>(Operation::kJvp),
      MakeMethod<v1::HvpRequest, v1::HvpResponse>(Operation::kHvp)};
  if (size == 0) return;
  const Method& chosen = methods[data[0] % 4];
  const std::unique_ptr<google::protobuf::Message> request(chosen.request.New());
  if (!request->ParseFromArray(data + 1, static_cast<int>(size) - 1)) return;
  known.Name(*request);
  const auto task =
      chosen.method.Decode(*request, known.store(), TenantId{}, kLimits, &known.regions());
  if (!task.ok()) {
    const absl::StatusCode code = task.status().code();
    THERIA_FUZZ_EXPECT(code == absl::StatusCode::kInvalidArgument ||
                       code == absl::StatusCode::kFailedPrecondition ||
                       code == absl::StatusCode::kUnimplemented);
    return;
  }
  THERIA_FUZZ_EXPECT((*task)->demand.bytes <= kLimits.max_request_bytes);
  THERIA_FUZZ_EXPECT(CoalesceKey(**task) == CoalesceKey(**task));
  CheckPlaces(**task);
  if ((*task)->demand.flops <= kMaxFlops) Compute(known, **task);
}

}  // namespace
}  // namespace theria::server

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  theria::server::TestOne(data, size);
  return 0;
}
