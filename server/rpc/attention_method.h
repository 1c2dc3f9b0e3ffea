#ifndef THERIA_SERVER_RPC_ATTENTION_METHOD_H_
#define THERIA_SERVER_RPC_ATTENTION_METHOD_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "kernels/api/attention.h"
#include "server/cache/shared_regions.h"
#include "server/cache/tensor_store.h"
#include "server/engine/job.h"
#include "server/rpc/device_staging.h"
#include "server/rpc/tensor_codec.h"
#include "theria/v1/attention.pb.h"

// How the messages of one RPC of AttentionService map to the operator contract, found once by the
// fields' names (kInputFields, kOutputFields), so that no RPC is written out by hand. Immutable and
// thread-safe after construction.

namespace theria::server {

struct AttentionLimits {
  std::size_t max_tensor_bytes;   // of one tensor, repeated elements counted each time
  std::size_t max_request_bytes;  // of all inputs and outputs
  std::size_t max_inline_bytes;   // of the outputs in one response
};

// One output that the client asked for, and what becomes of it.
struct PlannedOutput {
  const google::protobuf::FieldDescriptor* wire;  // of the response
  OutputField field;
  MutableTensorView layout;  // with data if it is SHARED
  v1::OutputMode mode;       // INLINE, RESIDENT or SHARED
  std::size_t offset_bytes;  // in its region, if it is SHARED
};

// A request, decoded and validated. Views as TensorDecoder says.
struct AttentionTask {
  explicit AttentionTask(TensorDecoder decoder) : decoder(std::move(decoder)) {}
  AttentionTask(const AttentionTask&) = delete;
  AttentionTask& operator=(const AttentionTask&) = delete;

  TensorDecoder decoder;  // holds the leases
  AttentionProblem problem;
  AttentionInputs inputs;
  std::vector<PlannedOutput> outputs;
  SharedPart target;            // of the SHARED outputs, if there are any
  absl::Duration resident_ttl;  // zero: the store's default
  Job::Demand demand;

  // Inputs whose bytes came in pieces, and are without data until they are one.
  struct ScatteredInput {
    TensorView* view;
    const InlinePayload* payload;
  };
  std::vector<ScatteredInput> scattered;
  Buffer gathered;

  // Makes the scattered inputs whole in the host's memory. Errors: RESOURCE_EXHAUSTED.
  absl::Status GatherInputs();
  // Adds the inputs that lie in the host's memory, the options' tensors and the scattered ones
  // among them.
  void StageInputs(DeviceStaging& staging);
};

class AttentionMethod {
 public:
  // REQUIRES: messages of an RPC of AttentionService.
  AttentionMethod(Operation operation, const google::protobuf::Descriptor& request,
                  const google::protobuf::Descriptor& response);

  Operation operation() const { return operation_; }

  // `payloads`: as ParseRequest left them, if it did. Errors: as AttentionService's comment says:
  // INVALID_ARGUMENT, FAILED_PRECONDITION (TensorsMissing, RegionMissing), UNIMPLEMENTED (shared
  // memory, where `regions` is null).
  absl::StatusOr<std::unique_ptr<AttentionTask>> Decode(
      const google::protobuf::Message& request, TensorStore& store, const TenantId& tenant,
      const AttentionLimits& limits, SharedRegions* regions = nullptr,
      const InlinePayloads* payloads = nullptr) const;

  // The response's `execution`.
  v1::ExecutionInfo& MutableExecution(google::protobuf::Message& response) const;

 private:
  struct Input {
    const google::protobuf::FieldDescriptor* wire;
    InputField field;
  };
  struct Output {
    const google::protobuf::FieldDescriptor* wire;  // null: this RPC has no such output
    const google::protobuf::FieldDescriptor* mode;  // of OutputSpec
    OutputField field;
    v1::OutputMode default_mode;
  };

  absl::Status DecodeInputs(const google::protobuf::Message& request, AttentionTask& task) const;
  absl::Status PlanOutputs(const v1::OutputSpec& spec, const TensorStore& store,
                           const AttentionLimits& limits, AttentionTask& task) const;
  // Gives a SHARED output its place, behind `used_bytes` of those before it.
  static absl::Status PlaceShared(const v1::OutputSpec& spec, std::size_t& used_bytes,
                                  MutableTensorView& layout, AttentionTask& task);

  const Operation operation_;
  const google::protobuf::FieldDescriptor* const options_;
  const google::protobuf::FieldDescriptor* const output_spec_;
  const google::protobuf::FieldDescriptor* const execution_;
  std::vector<Input> inputs_;
  std::vector<Output> outputs_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_ATTENTION_METHOD_H_
