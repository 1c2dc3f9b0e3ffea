#include "server/rpc/tensor_codec.h"

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>

#include "absl/strings/str_join.h"
#include "kernels/api/attention.h"
#include "kernels/api/message.h"
#include "server/rpc/status_map.h"
#include "server/rpc/store_codec.h"

namespace theria::server {
namespace {

std::string Join(absl::Span<const std::int64_t> extents) { return absl::StrJoin(extents, ", "); }

// As Message, for the path that succeeds.
std::string Path(std::string_view field, std::string_view member) {
  return std::string(field).append(member);
}

// A row-major view without data. REQUIRES: CheckShape accepted it with kMaxRank.
TensorView RowMajor(DType dtype, absl::Span<const std::int64_t> shape) {
  TensorView view;
  view.dtype = dtype;
  view.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  view.SetRowMajor();
  return view;
}

// Sets the strides of `view`. Errors: INVALID_ARGUMENT also if their span overflows.
absl::Status SetStrides(const v1::Tensor& tensor, std::string_view field, TensorView& view) {
  if (tensor.strides().empty()) return absl::OkStatus();
  if (tensor.strides_size() != view.rank) {
    return InvalidField(Message(field, ".strides"),
                        Message("has ", tensor.strides_size(), " entries, must have ", view.rank,
                                ", one for each dimension, or none"));
  }
  std::int64_t last = 0;
  for (int axis = 0; axis < view.rank; ++axis) {
    const auto index = static_cast<std::size_t>(axis);
    const std::int64_t stride = tensor.strides(axis);
    std::int64_t reach = 0;
    if (stride < 0) {
      return InvalidField(Message(field, ".strides[", axis, "]"),
                          Message("is ", stride, ", must not be negative"));
    }
    if (__builtin_mul_overflow(std::max<std::int64_t>(view.shape.at(index), 1) - 1, stride,
                               &reach) ||
        __builtin_add_overflow(last, reach, &last) || last > (std::int64_t{1} << 59)) {
      return InvalidField(Message(field, ".strides[", axis, "]"),
                          Message("is ", stride, ", too large for any data"));
    }
    view.strides.at(index) = stride;
  }
  return absl::OkStatus();
}

void EncodeLayout(const MutableTensorView& layout, v1::Tensor& tensor) {
  tensor.set_dtype(EncodeDType(layout.dtype));
  tensor.mutable_shape()->Add(layout.shape.begin(), layout.shape.begin() + layout.rank);
}

}  // namespace

absl::StatusOr<DType> DecodeDType(int wire_dtype, std::string_view field) {
  switch (wire_dtype) {
    case v1::FLOAT64:
      return DType::kFloat64;
    case v1::FLOAT32:
      return DType::kFloat32;
    case v1::FLOAT16:
      return DType::kFloat16;
    case v1::BFLOAT16:
      return DType::kBFloat16;
    case v1::BOOL:
      return DType::kBool;
    case v1::INT32:
      return DType::kInt32;
    case v1::DTYPE_UNSPECIFIED:
      return InvalidField(field, "is unspecified");
    default:
      return InvalidField(field, Message("is ", wire_dtype, ", which is no dtype"));
  }
}

v1::DType EncodeDType(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return v1::FLOAT64;
    case DType::kFloat32:
      return v1::FLOAT32;
    case DType::kFloat16:
      return v1::FLOAT16;
    case DType::kBFloat16:
      return v1::BFLOAT16;
    case DType::kBool:
      return v1::BOOL;
    case DType::kInt32:
      return v1::INT32;
  }
  return v1::DTYPE_UNSPECIFIED;
}

absl::Status CheckShape(absl::Span<const std::int64_t> shape, DType dtype, std::size_t max_rank,
                        std::size_t max_bytes, std::string_view field) {
  if (shape.empty() || shape.size() > max_rank) {
    return InvalidField(field,
                        Message("has ", shape.size(), " dimensions, must have 1 to ", max_rank));
  }
  std::size_t bytes = ItemSizeBytes(dtype);
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    const std::int64_t extent = shape[axis];
    if (extent < 0) {
      return InvalidField(Message(field, "[", axis, "]"),
                          Message("is ", extent, ", must not be negative"));
    }
    if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(extent), &bytes) ||
        bytes > max_bytes) {
      return InvalidField(field, Message("is [", Join(shape), "] of ", DTypeName(dtype),
                                         ", must take at most ", max_bytes, " bytes"));
    }
  }
  return absl::OkStatus();
}

TensorDecoder::TensorDecoder(TensorStore& store, TenantId tenant, std::size_t max_tensor_bytes,
                             SharedRegions* regions, const InlinePayloads* payloads)
    : store_(store),
      tenant_(std::move(tenant)),
      max_tensor_bytes_(max_tensor_bytes),
      regions_(regions),
      payloads_(payloads) {}

absl::StatusOr<std::optional<TensorView>> TensorDecoder::Decode(const v1::Tensor& tensor,
                                                                std::string_view field) {
  switch (tensor.source_case()) {
    case v1::Tensor::kData:
      return DecodeInline(tensor, field);
    case v1::Tensor::kHandle:
      return DecodeResident(tensor, field);
    case v1::Tensor::kSharedMemory:
      return DecodeShared(tensor, field);
    case v1::Tensor::SOURCE_NOT_SET:
      break;
  }
  return InvalidField(field, "has no source, must have data, a handle or shared_memory");
}

absl::StatusOr<TensorView> TensorDecoder::DecodeLayout(const v1::Tensor& tensor,
                                                       std::string_view field,
                                                       std::string_view source,
                                                       std::size_t size_bytes) const {
  const absl::StatusOr<DType> dtype = DecodeDType(tensor.dtype(), Path(field, ".dtype"));
  if (!dtype.ok()) return dtype.status();
  if (absl::Status shape =
          CheckShape(tensor.shape(), *dtype, kMaxRank, max_tensor_bytes_, Path(field, ".shape"));
      !shape.ok()) {
    return shape;
  }
  TensorView view = RowMajor(*dtype, tensor.shape());
  if (absl::Status strides = SetStrides(tensor, field, view); !strides.ok()) return strides;
  const std::size_t expected_bytes =
      static_cast<std::size_t>(view.SpanElements()) * ItemSizeBytes(*dtype);
  if (size_bytes != expected_bytes) {
    return InvalidField(Message(field, source),
                        Message("has ", size_bytes, " bytes, must have ", expected_bytes,
                                " for its dtype, shape and strides"));
  }
  return view;
}

absl::StatusOr<std::optional<TensorView>> TensorDecoder::DecodeInline(const v1::Tensor& tensor,
                                                                      std::string_view field) {
  const InlinePayload* const payload = Scattered(tensor);
  absl::StatusOr<TensorView> view = DecodeLayout(
      tensor, field, ".data", payload == nullptr ? tensor.data().size() : payload->size_bytes);
  if (!view.ok()) return view.status();
  view->data = payload == nullptr ? tensor.data().data() : nullptr;
  return *view;
}

const InlinePayload* TensorDecoder::Scattered(const v1::Tensor& tensor) const {
  if (payloads_ == nullptr || !tensor.has_data()) return nullptr;
  const auto found = payloads_->find(&tensor);
  return found == payloads_->end() ? nullptr : &found->second;
}

absl::StatusOr<std::optional<TensorView>> TensorDecoder::DecodeShared(const v1::Tensor& tensor,
                                                                      std::string_view field) {
  constexpr std::string_view kSource = ".shared_memory";
  absl::StatusOr<SharedPart> part =
      DecodeSharedMemory(tensor.shared_memory(), regions_, tenant_, Path(field, kSource));
  if (!part.ok()) return part.status();
  absl::StatusOr<TensorView> view = DecodeLayout(tensor, field, kSource, part->size_bytes);
  if (!view.ok()) return view.status();
  view->data = part->data();
  parts_.push_back(*std::move(part));
  return *view;
}

absl::StatusOr<SharedPart> TensorDecoder::DecodeTarget(const v1::SharedMemoryRef& reference,
                                                       std::string_view field) const {
  absl::StatusOr<SharedPart> target = DecodeSharedMemory(reference, regions_, tenant_, field);
  if (!target.ok()) return target;
  const bool overlaps = std::any_of(parts_.begin(), parts_.end(), [&](const SharedPart& input) {
    return target->Overlaps(input);
  });
  if (overlaps) return InvalidField(field, "overlaps an input, which must be elsewhere");
  return target;
}

absl::StatusOr<std::optional<TensorView>> TensorDecoder::DecodeResident(const v1::Tensor& tensor,
                                                                        std::string_view field) {
  absl::StatusOr<TensorLease> lease = store_.Acquire(tenant_, tensor.handle());
  if (absl::IsNotFound(lease.status())) {
    if (std::find(missing_.begin(), missing_.end(), tensor.handle()) == missing_.end()) {
      missing_.push_back(tensor.handle());
    }
    return std::nullopt;
  }
  if (!lease.ok()) return FromStore(lease.status(), tensor.handle());
  const TensorSpec& spec = lease->spec();
  if (tensor.dtype() != v1::DTYPE_UNSPECIFIED && tensor.dtype() != EncodeDType(spec.dtype)) {
    return InvalidField(Message(field, ".dtype"),
                        Message("differs from the resident tensor's ", DTypeName(spec.dtype)));
  }
  if (!tensor.shape().empty() && !std::equal(tensor.shape().begin(), tensor.shape().end(),
                                             spec.shape.begin(), spec.shape.end())) {
    return InvalidField(Message(field, ".shape"),
                        Message("is [", Join(tensor.shape()),
                                "], must equal the resident tensor's [", Join(spec.shape), "]"));
  }
  if (spec.shape.size() > static_cast<std::size_t>(kMaxRank)) {
    return InvalidField(
        Message(field, ".shape"),
        Message("has ", spec.shape.size(), " dimensions, must have 1 to ", kMaxRank));
  }
  TensorView view = RowMajor(spec.dtype, spec.shape);
  const TensorView row_major = view;
  if (absl::Status strides = SetStrides(tensor, field, view); !strides.ok()) return strides;
  if (view.strides != row_major.strides) {
    return InvalidField(Message(field, ".strides"),
                        "must be absent or row-major: resident tensors are");
  }
  view.data = lease->data();
  leases_.push_back(*std::move(lease));
  return view;
}

bool TensorDecoder::IsOnDevice(const TensorView& view) const {
  return std::any_of(leases_.begin(), leases_.end(),
                     [&view](const TensorLease& lease) { return lease.data() == view.data; }) ||
         std::any_of(parts_.begin(), parts_.end(), [&view](const SharedPart& part) {
           return part.region->is_on_device() && part.data() == view.data;
         });
}

absl::Status TensorDecoder::status() const {
  return missing_.empty() ? absl::OkStatus() : TensorsMissing(missing_);
}

absl::StatusOr<MutableTensorView> EncodeInline(const MutableTensorView& layout,
                                               v1::Tensor& tensor) {
  EncodeLayout(layout, tensor);
  try {
    tensor.mutable_data()->resize(layout.SizeBytes());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("the server is out of memory for the response");
  }
  MutableTensorView view = layout;
  view.data = tensor.mutable_data()->data();
  return view;
}

void EncodeShared(const MutableTensorView& layout, const v1::SharedMemoryRef& part,
                  v1::Tensor& tensor) {
  EncodeLayout(layout, tensor);
  *tensor.mutable_shared_memory() = part;
}

void EncodeResident(const TensorInfo& info, v1::Tensor& tensor) {
  tensor.set_dtype(EncodeDType(info.spec.dtype));
  tensor.mutable_shape()->Add(info.spec.shape.begin(), info.spec.shape.end());
  tensor.set_handle(info.handle);
}

}  // namespace theria::server
