#ifndef THERIA_CLIENT_CPP_SRC_ATTENTION_CODEC_H_
#define THERIA_CLIENT_CPP_SRC_ATTENTION_CODEC_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/src/payload.h"
#include "client/cpp/src/shared_region_state.h"
#include "client/cpp/src/shared_regions.h"
#include "google/protobuf/message.h"
#include "theria/attention.h"
#include "theria/v1/attention.pb.h"

namespace theria::client {

// The plain options; the tensors among them are EncodeRequest's.
void EncodeOptions(const AttentionOptions& options, v1::AttentionOptions* message);
void EncodeOutputs(const OutputSpec& outputs, v1::OutputSpec* message);

// Fills one of v1::{Forward,Vjp,Jvp,Hvp}Request, all but its outputs. Elements of large local
// tensors go to the end of `payloads`.
// Errors: INVALID_ARGUMENT, naming the field, for a tensor that the operation does not read;
// INVALID_ARGUMENT for local tensors that together exceed what one message can hold, 2 GiB.
absl::Status EncodeRequest(const AttentionRequest& request, const SharedRegions& regions,
                           google::protobuf::Message* message, std::vector<Payload>* payloads);

// Takes the outputs out of one of v1::{Forward,Vjp,Jvp,Hvp}Response, or finds them in `room`, which
// may be null. Errors: INTERNAL.
absl::StatusOr<AttentionResult> DecodeResponse(google::protobuf::Message* message,
                                               const std::shared_ptr<SharedRoom>& room);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_ATTENTION_CODEC_H_
