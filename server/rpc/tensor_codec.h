#ifndef THERIA_SERVER_RPC_TENSOR_CODEC_H_
#define THERIA_SERVER_RPC_TENSOR_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/api/tensor_view.h"
#include "server/cache/shared_regions.h"
#include "server/cache/tensor_store.h"
#include "server/rpc/inline_payloads.h"
#include "server/rpc/shared_memory_codec.h"
#include "theria/v1/tensor.pb.h"

// Tensors on the wire <-> views that the kernels read and write. Every size that a client sent is
// checked here, before anything is computed from it; the checks between tensors are Validate's
// (kernels/api/attention.h).

namespace theria::server {

// FLOAT64 ... BOOL <-> DType. Errors: INVALID_ARGUMENT with FieldOf `field`.
absl::StatusOr<DType> DecodeDType(int wire_dtype, std::string_view field);
v1::DType EncodeDType(DType dtype);

// Extents, none of them negative, at most `max_rank` of them and not none, whose elements take at
// most `max_bytes`. Errors: INVALID_ARGUMENT with FieldOf `field` or `field`[axis].
absl::Status CheckShape(absl::Span<const std::int64_t> shape, DType dtype, std::size_t max_rank,
                        std::size_t max_bytes, std::string_view field);

// Decodes the tensors of one request. Views point into the request's own bytes, into resident
// tensors or into shared memory, which the decoder keeps in place: request and decoder must outlive
// every use of a view. Of a payload in several pieces, the view is without data: see Scattered.
// Not thread-safe.
class TensorDecoder {
 public:
  // The store, the regions (null: no memory is shared) and the payloads that ParseRequest left
  // (null: none) must outlive the decoder. `max_tensor_bytes` bounds the elements of one tensor,
  // repeated ones counted each time.
  TensorDecoder(TensorStore& store, TenantId tenant, std::size_t max_tensor_bytes,
                SharedRegions* regions = nullptr, const InlinePayloads* payloads = nullptr);

  // `field` is the path of `tensor` in the request ("q", "options.mask"). A resident tensor that is
  // not there is remembered for status(); the result is then without value.
  // Errors: INVALID_ARGUMENT with FieldOf, UNIMPLEMENTED and RegionMissing (shared memory), as
  // theria.v1.Tensor says.
  absl::StatusOr<std::optional<TensorView>> Decode(const v1::Tensor& tensor,
                                                   std::string_view field);

  // The pieces of a tensor whose view Decode gave without data; null of any other.
  const InlinePayload* Scattered(const v1::Tensor& tensor) const;

  // Where outputs go. Errors: as Decode, and INVALID_ARGUMENT if an input decoded so far is there.
  absl::StatusOr<SharedPart> DecodeTarget(const v1::SharedMemoryRef& reference,
                                          std::string_view field) const;

  // Whether a view that Decode gave lies in the backend's memory, as resident tensors do; else it
  // is of the request's own bytes or of the host's shared memory.
  bool IsOnDevice(const TensorView& view) const;

  // FAILED_PRECONDITION naming every handle that Decode missed (TensorsMissing), or OK.
  absl::Status status() const;

 private:
  // A view without data, of a tensor whose source brings `size_bytes`.
  absl::StatusOr<TensorView> DecodeLayout(const v1::Tensor& tensor, std::string_view field,
                                          std::string_view source, std::size_t size_bytes) const;
  absl::StatusOr<std::optional<TensorView>> DecodeInline(const v1::Tensor& tensor,
                                                         std::string_view field);
  absl::StatusOr<std::optional<TensorView>> DecodeShared(const v1::Tensor& tensor,
                                                         std::string_view field);
  absl::StatusOr<std::optional<TensorView>> DecodeResident(const v1::Tensor& tensor,
                                                           std::string_view field);

  TensorStore& store_;
  TenantId tenant_;
  std::size_t max_tensor_bytes_;
  SharedRegions* regions_;
  const InlinePayloads* payloads_;
  std::vector<TensorLease> leases_;
  std::vector<SharedPart> parts_;
  std::vector<std::string> missing_;
};

// Sets dtype, shape and row-major `data` of the layout's size in `tensor`; returns the layout with
// its data there. Errors: RESOURCE_EXHAUSTED (out of memory).
absl::StatusOr<MutableTensorView> EncodeInline(const MutableTensorView& layout, v1::Tensor& tensor);

// Sets dtype and shape of `tensor`, and the part of shared memory that holds its elements.
void EncodeShared(const MutableTensorView& layout, const v1::SharedMemoryRef& part,
                  v1::Tensor& tensor);

// Sets dtype, shape and handle of `tensor` to those of a resident tensor.
void EncodeResident(const TensorInfo& info, v1::Tensor& tensor);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_TENSOR_CODEC_H_
