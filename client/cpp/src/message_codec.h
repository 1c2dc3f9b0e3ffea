#ifndef THERIA_CLIENT_CPP_SRC_MESSAGE_CODEC_H_
#define THERIA_CLIENT_CPP_SRC_MESSAGE_CODEC_H_

#include <memory>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/src/shared_region_state.h"
#include "client/cpp/src/shared_regions.h"
#include "theria/resident_tensor.h"
#include "theria/server_info.h"
#include "theria/tensor.h"
#include "theria/v1/attention.pb.h"
#include "theria/v1/server.pb.h"
#include "theria/v1/tensor.pb.h"
#include "theria/v1/tensor_store.pb.h"

// Conversions between the library's types and the messages of tensors, store and server. What a
// server sends is checked: messages that break the contract give INTERNAL, never a bad Tensor.

namespace theria::client {

v1::DType ToMessage(DType dtype);
v1::Operation ToMessage(Operation operation);

// Errors: INTERNAL if the server's value is none of ours.
absl::StatusOr<DType> FromMessage(v1::DType dtype);
Implementation FromMessage(v1::Implementation implementation);

// The bytes of a row-major tensor; none for negative extents and for what no memory holds.
std::optional<std::size_t> CheckedSizeBytes(DType dtype, const Shape& shape);

// A local tensor in one of `regions` goes as a reference; another as its elements, with strides
// where these reach no more bytes than a row-major copy would have; a resident one as its handle.
// REQUIRES: tensor.has_value().
void EncodeTensor(const AnyTensor& tensor, v1::Tensor* message,
                  const SharedRegions& regions = SharedRegions());

// As EncodeTensor, but leaves the elements out: their memory is that of the result. None for what
// goes by name.
std::optional<Tensor> EncodeTensorHead(const AnyTensor& tensor, v1::Tensor* message,
                                       const SharedRegions& regions);

// The bytes of elements that EncodeTensor puts into a message; 0 for what goes by name or is
// absent.
std::size_t EncodedBytes(const AnyTensor& tensor, const SharedRegions& regions);

// Takes the elements out of `message`, or finds them in `room`, which may be null. None for a
// message without a source.
absl::StatusOr<AnyTensor> DecodeTensor(v1::Tensor* message,
                                       const std::shared_ptr<SharedRoom>& room = nullptr);

absl::StatusOr<TensorInfo> FromMessage(const v1::TensorInfo& message);
absl::StatusOr<ServerInfo> FromMessage(const v1::GetServerInfoResponse& message);
ExecutionInfo FromMessage(const v1::ExecutionInfo& message);

// Milliseconds of `duration`, rounded up, so that a positive one never becomes 0.
std::int64_t ToMilliseconds(absl::Duration duration);

// Collects the chunks of a download into a row-major tensor.
class TensorBuilder {
 public:
  // Starts `builder` for a tensor of that dtype and shape. Errors: INTERNAL.
  static absl::Status Begin(const v1::TensorInfo& info, std::optional<TensorBuilder>& builder);

  // Errors: INTERNAL for more bytes than the shape has.
  absl::Status Append(std::string_view chunk);

  // Errors: INTERNAL for fewer bytes than the shape has.
  absl::StatusOr<Tensor> Finish() &&;

 private:
  TensorBuilder(DType dtype, Shape shape, std::size_t size_bytes);

  DType dtype_;
  Shape shape_;
  std::size_t size_bytes_;
  std::size_t filled_bytes_ = 0;
  std::shared_ptr<char[]> elements_;
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_MESSAGE_CODEC_H_
