#ifndef THERIA_CLIENT_CPP_SRC_ATTENTION_CODEC_H_
#define THERIA_CLIENT_CPP_SRC_ATTENTION_CODEC_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "theria/attention.h"
#include "theria/v1/attention.pb.h"

namespace theria::client {

void EncodeOptions(const AttentionOptions& options, v1::AttentionOptions* message);

// Fills one of v1::{Forward,Vjp,Jvp,Hvp}Request.
// Errors: INVALID_ARGUMENT, naming the field, for a tensor that the operation does not read;
// INVALID_ARGUMENT for local tensors that together exceed what one message can hold, 2 GiB.
template <typename Request>
absl::Status EncodeRequest(const AttentionRequest& request, Request* message);

// Takes the outputs out of one of v1::{Forward,Vjp,Jvp,Hvp}Response. Errors: INTERNAL.
template <typename Response>
absl::StatusOr<AttentionResult> DecodeResponse(Response* message);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_ATTENTION_CODEC_H_
