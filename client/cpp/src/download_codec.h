#ifndef THERIA_CLIENT_CPP_SRC_DOWNLOAD_CODEC_H_
#define THERIA_CLIENT_CPP_SRC_DOWNLOAD_CODEC_H_

#include <optional>

#include "absl/status/status.h"
#include "client/cpp/src/message_codec.h"
#include "grpcpp/support/byte_buffer.h"

namespace theria::client {

// Reads one serialised DownloadResponse, whose elements go from the transport's memory into the
// tensor's: its info begins `builder`, its chunk goes there. Unknown fields are skipped, as
// protobuf does. Errors: INTERNAL for what breaks the contract.
absl::Status ReadDownloadResponse(grpc::ByteBuffer& message, std::optional<TensorBuilder>& builder);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_DOWNLOAD_CODEC_H_
