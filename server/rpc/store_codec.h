#ifndef THERIA_SERVER_RPC_STORE_CODEC_H_
#define THERIA_SERVER_RPC_STORE_CODEC_H_

#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/cache/tensor_store.h"
#include "theria/v1/tensor_store.pb.h"

// What the tensor store says, in the words of theria.v1.TensorService, and back.

namespace theria::server {

// Durations are rounded up to whole milliseconds: what is not over is not zero.
void EncodeTensorInfo(const TensorInfo& info, v1::TensorInfo& encoded);

// What an upload asks for. Ranges of shape, ttl and pin are the store's to check.
struct UploadSpec {
  TensorSpec spec;
  absl::Duration ttl;
  absl::Duration pin;
  std::optional<Sha256Digest> sha256;
};
// Errors: INVALID_ARGUMENT with FieldOf "header.dtype" or "header.sha256".
absl::StatusOr<UploadSpec> DecodeUploadHeader(const v1::UploadHeader& header);

// The status of the edge for one of the store's: a handle that names nothing is TensorsMissing,
// RESOURCE_EXHAUSTED says when to retry.
absl::Status FromStore(const absl::Status& status, std::string_view handle);

// The same for what an upload's header asked for: the fields at fault are below "header".
absl::Status FromStoreInHeader(const absl::Status& status);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_STORE_CODEC_H_
