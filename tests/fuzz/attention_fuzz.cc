// Request validation: the first byte chooses the operation, the rest is its serialised request,
// whose tensors may be Known's. With its payloads left in pieces, it means what protobuf makes of
// it. What is accepted is computed by the CPU backend, if it is small, into outputs of exactly the
// sizes that the plan says, those in shared memory apart from each other, with not a byte changed
// outside of the part that the request names for them; what is refused is refused with one of the
// contract's codes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/cpu/backend.h"
#include "server/rpc/attention_method.h"
#include "server/rpc/coalesce_key.h"
#include "server/rpc/inline_payloads.h"
#include "tests/fuzz/expect.h"
#include "tests/fuzz/known.h"

namespace theria::server {
namespace {

constexpr AttentionLimits kLimits = {std::size_t{1} << 20, std::size_t{4} << 20,
                                     std::size_t{1} << 20};
constexpr std::size_t kMinPayload = 24;
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

// As the transport might deliver them.
grpc::ByteBuffer Sliced(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kSliceBytes = 48;
  std::vector<grpc::Slice> slices;
  for (std::size_t at = 0; at < size; at += kSliceBytes) {
    slices.emplace_back(data + at, std::min(kSliceBytes, size - at));
  }
  return {slices.data(), slices.size()};
}

// What was gathered from pieces is what lay in one.
void CheckInputs(const AttentionTask& task, const AttentionTask& whole) {
  const auto check = [](const std::optional<TensorView>& view,
                        const std::optional<TensorView>& expected) {
    THERIA_FUZZ_EXPECT(view.has_value() == expected.has_value());
    if (!view.has_value()) return;
    const auto size_bytes =
        static_cast<std::size_t>(view->SpanElements()) * ItemSizeBytes(view->dtype);
    THERIA_FUZZ_EXPECT(std::memcmp(view->data, expected->data, size_bytes) == 0);
  };
  for (const InputField& field : kInputFields) {
    check(task.inputs.*field.member, whole.inputs.*field.member);
  }
  for (const OptionTensor& tensor : kOptionTensors) {
    check(task.inputs.options.*tensor.member, whole.inputs.options.*tensor.member);
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
  const bool is_request = request->ParseFromArray(data + 1, static_cast<int>(size) - 1);
  grpc::ByteBuffer bytes = Sliced(data + 1, size - 1);
  const std::unique_ptr<google::protobuf::Message> parted(chosen.request.New());
  InlinePayloads payloads;
  if (!ParseRequest(bytes, *parted, payloads, kMinPayload)) {
    THERIA_FUZZ_EXPECT(!is_request);
    return;
  }
  known.Name(*parted);
  auto task = chosen.method.Decode(*parted, known.store(), TenantId{}, kLimits, &known.regions(),
                                   &payloads);
  known.Name(*request);
  const auto whole =
      chosen.method.Decode(*request, known.store(), TenantId{}, kLimits, &known.regions());
  THERIA_FUZZ_EXPECT(!is_request || whole.status() == task.status());
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
  THERIA_FUZZ_EXPECT((*task)->GatherInputs().ok());
  if (is_request) CheckInputs(**task, **whole);
  if ((*task)->demand.flops <= kMaxFlops) Compute(known, **task);
}

}  // namespace
}  // namespace theria::server

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  theria::server::TestOne(data, size);
  return 0;
}
