#ifndef THERIA_SERVER_RPC_OPTIONS_CODEC_H_
#define THERIA_SERVER_RPC_OPTIONS_CODEC_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/api/attention.h"
#include "server/rpc/tensor_codec.h"
#include "theria/v1/attention.pb.h"
#include "theria/v1/server.pb.h"

// The options and enumerations of theria.v1 <-> those of kernels/api. Values are taken as they are;
// Validate judges them.

namespace theria::server {

// The message of an option's tensor, found by its name; null if it is absent.
const v1::Tensor* WireTensor(const v1::AttentionOptions& options, const OptionTensor& tensor);

// `decoder` decodes the tensors, as fields such as "options.mask". Errors: INVALID_ARGUMENT with
// FieldOf for enumerators that are none, and those of TensorDecoder::Decode.
absl::StatusOr<AttentionOptions> DecodeOptions(const v1::AttentionOptions& options,
                                               TensorDecoder& decoder);

// Errors: INVALID_ARGUMENT with FieldOf `field`.
absl::StatusOr<Operation> DecodeOperation(int wire_operation, std::string_view field);

v1::Operation EncodeOperation(Operation operation);
v1::Implementation EncodeImplementation(Implementation implementation);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_OPTIONS_CODEC_H_
