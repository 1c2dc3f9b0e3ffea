#include "server/rpc/store_codec.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/api/attention.h"
#include "server/cache/exhausted.h"
#include "server/engine/retry_after.h"
#include "server/rpc/status_map.h"
#include "server/rpc/tensor_codec.h"

namespace theria::server {
namespace {

// Room comes when leases end or reads finish, which nobody can foretell; polling once a second is
// cheap for both sides.
constexpr absl::Duration kRetryDelay = absl::Seconds(1);

std::int64_t MillisecondsRoundedUp(absl::Duration duration) {
  return absl::ToInt64Milliseconds(absl::Ceil(duration, absl::Milliseconds(1)));
}

}  // namespace

void EncodeTensorInfo(const TensorInfo& info, v1::TensorInfo& encoded) {
  encoded.set_handle(info.handle);
  encoded.set_dtype(EncodeDType(info.spec.dtype));
  encoded.mutable_shape()->Assign(info.spec.shape.begin(), info.spec.shape.end());
  encoded.set_size_bytes(info.spec.SizeBytes());
  encoded.set_expires_in_ms(MillisecondsRoundedUp(info.expires_in));
  encoded.set_pinned_for_ms(MillisecondsRoundedUp(info.pinned_for));
  if (info.sha256.has_value()) {
    encoded.set_sha256(info.sha256->data(), info.sha256->size());
  }
  encoded.set_device(info.device);
  encoded.set_readers(static_cast<std::uint32_t>(info.readers));
}

absl::StatusOr<UploadSpec> DecodeUploadHeader(const v1::UploadHeader& header) {
  UploadSpec upload;
  const absl::StatusOr<DType> dtype = DecodeDType(header.dtype(), "header.dtype");
  if (!dtype.ok()) return dtype.status();
  upload.spec.dtype = *dtype;
  upload.spec.shape.assign(header.shape().begin(), header.shape().end());
  upload.ttl = absl::Milliseconds(header.ttl_ms());
  upload.pin = absl::Milliseconds(header.pin_ms());
  if (!header.sha256().empty()) {
    Sha256Digest& digest = upload.sha256.emplace();
    if (header.sha256().size() != digest.size()) {
      return InvalidField("header.sha256",
                          absl::StrCat("has ", header.sha256().size(), " bytes, must have ",
                                       digest.size(), " or none"));
    }
    std::copy(header.sha256().begin(), header.sha256().end(), digest.begin());
  }
  return upload;
}

absl::Status FromStore(const absl::Status& status, std::string_view handle) {
  if (absl::IsNotFound(status)) return TensorsMissing({std::string(handle)});
  if (absl::IsResourceExhausted(status) && !IsExhaustedForGood(status)) {
    return ExhaustedRetryAfter(std::string(status.message()), kRetryDelay);
  }
  return status;
}

absl::Status FromStoreInHeader(const absl::Status& status) {
  const std::optional<std::string> field = FieldOf(status);
  if (!field.has_value()) return FromStore(status, "");
  const std::string message(status.message());  // "FIELD TEXT"
  return InvalidField(absl::StrCat("header.", *field), message.substr(field->size() + 1));
}

}  // namespace theria::server
