#include "client/cpp/src/message_codec.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "client/cpp/src/resident_tensor_state.h"
#include "client/cpp/src/text.h"

namespace theria::client {
namespace {

absl::Status BrokenContract(std::string_view what) {
  return absl::InternalError(Text("the server's response breaks the contract: ", what));
}

// As CheckedSizeBytes. Errors: INTERNAL.
absl::StatusOr<std::size_t> SizeBytes(DType dtype, const Shape& shape) {
  const std::optional<std::size_t> size_bytes = CheckedSizeBytes(dtype, shape);
  if (!size_bytes.has_value()) {
    return BrokenContract(Text("a tensor of shape ", ShapeString(shape)));
  }
  return *size_bytes;
}

bool GoesWithStrides(const Tensor& tensor) {
  return !tensor.is_row_major() && tensor.span_bytes() <= tensor.size_bytes();
}

template <typename Message>
Shape ShapeOf(const Message& message) {
  return {message.shape().begin(), message.shape().end()};
}

}  // namespace

v1::DType ToMessage(DType dtype) {
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

v1::Operation ToMessage(Operation operation) {
  switch (operation) {
    case Operation::kForward:
      return v1::FORWARD;
    case Operation::kVjp:
      return v1::VJP;
    case Operation::kJvp:
      return v1::JVP;
    case Operation::kHvp:
      return v1::HVP;
  }
  return v1::OPERATION_UNSPECIFIED;
}

absl::StatusOr<DType> FromMessage(v1::DType dtype) {
  switch (dtype) {
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
    default:
      return BrokenContract(Text("dtype ", static_cast<int>(dtype)));
  }
}

Implementation FromMessage(v1::Implementation implementation) {
  switch (implementation) {
    case v1::FUSED:
      return Implementation::kFused;
    case v1::UNFUSED:
      return Implementation::kUnfused;
    case v1::REFERENCE:
      return Implementation::kReference;
    default:
      return Implementation::kAuto;
  }
}

std::optional<std::size_t> CheckedSizeBytes(DType dtype, const Shape& shape) {
  // Of the extents that are not 0, so that those after a 0 are checked too.
  std::size_t size_bytes = ItemSizeBytes(dtype);
  bool is_empty = false;
  for (std::int64_t extent : shape) {
    if (extent == 0) {
      is_empty = true;
    } else if (extent < 0 ||
               static_cast<std::size_t>(extent) >
                   static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max()) /
                       size_bytes) {
      return std::nullopt;
    } else {
      size_bytes *= static_cast<std::size_t>(extent);
    }
  }
  return is_empty ? 0 : size_bytes;
}

void EncodeTensor(const AnyTensor& tensor, v1::Tensor* message, const SharedRegions& regions) {
  const std::optional<Tensor> sent = EncodeTensorHead(tensor, message, regions);
  if (sent.has_value()) message->set_data(sent->data(), sent->span_bytes());
}

std::optional<Tensor> EncodeTensorHead(const AnyTensor& tensor, v1::Tensor* message,
                                       const SharedRegions& regions) {
  if (tensor.is_resident()) {
    message->set_handle(tensor.resident().handle());
    return std::nullopt;
  }
  const Tensor& local = tensor.local();
  std::optional<v1::SharedMemoryRef> part = regions.PartOf(local);
  const bool strided = part.has_value() ? !local.is_row_major() : GoesWithStrides(local);
  Tensor sent = strided ? local : local.RowMajor();
  message->set_dtype(ToMessage(sent.dtype()));
  message->mutable_shape()->Add(sent.shape().begin(), sent.shape().end());
  if (strided) message->mutable_strides()->Add(sent.strides().begin(), sent.strides().end());
  if (!part.has_value()) return sent;
  *message->mutable_shared_memory() = *std::move(part);
  return std::nullopt;
}

std::size_t EncodedBytes(const AnyTensor& tensor, const SharedRegions& regions) {
  if (!tensor.is_local() || regions.PartOf(tensor.local()).has_value()) return 0;
  const Tensor& local = tensor.local();
  return GoesWithStrides(local) ? local.span_bytes() : local.size_bytes();
}

absl::StatusOr<AnyTensor> DecodeTensor(v1::Tensor* message,
                                       const std::shared_ptr<SharedRoom>& room) {
  if (message->source_case() == v1::Tensor::SOURCE_NOT_SET) return AnyTensor();
  const absl::StatusOr<DType> dtype = FromMessage(message->dtype());
  if (!dtype.ok()) return dtype.status();
  Shape shape = ShapeOf(*message);
  const absl::StatusOr<std::size_t> size_bytes = SizeBytes(*dtype, shape);
  if (!size_bytes.ok()) return size_bytes.status();
  if (message->has_shared_memory()) {
    const v1::SharedMemoryRef& part = message->shared_memory();
    if (room == nullptr || part.size_bytes() != *size_bytes ||
        part.offset_bytes() < room->offset_bytes() || *size_bytes > room->size_bytes() ||
        part.offset_bytes() - room->offset_bytes() > room->size_bytes() - *size_bytes) {
      return BrokenContract("an output elsewhere than asked");
    }
    std::byte* const data = room->data() + (part.offset_bytes() - room->offset_bytes());
    return AnyTensor(Tensor::AdoptWritable(room, *dtype, data, std::move(shape)));
  }
  if (message->has_handle()) {
    return AnyTensor(ResidentTensor(std::make_shared<ResidentTensor::State>(
        *dtype, std::move(shape), std::move(*message->mutable_handle()))));
  }
  if (message->data().size() != *size_bytes) {
    return BrokenContract(Text(message->data().size(), " bytes for a ", DTypeName(*dtype),
                               " tensor of shape ", ShapeString(shape)));
  }
  auto storage = std::make_shared<const std::string>(std::move(*message->mutable_data()));
  const void* data = storage->data();
  return AnyTensor(Tensor::Adopt(std::move(storage), *dtype, data, std::move(shape)));
}

absl::StatusOr<TensorInfo> FromMessage(const v1::TensorInfo& message) {
  const absl::StatusOr<DType> dtype = FromMessage(message.dtype());
  if (!dtype.ok()) return dtype.status();
  TensorInfo info;
  info.handle = message.handle();
  info.dtype = *dtype;
  info.shape = ShapeOf(message);
  info.size_bytes = message.size_bytes();
  info.expires_in = absl::Milliseconds(message.expires_in_ms());
  info.pinned_for = absl::Milliseconds(message.pinned_for_ms());
  info.sha256 = message.sha256();
  info.device = message.device();
  info.readers = static_cast<int>(message.readers());
  return info;
}

absl::StatusOr<ServerInfo> FromMessage(const v1::GetServerInfoResponse& message) {
  ServerInfo info;
  info.version = message.version();
  info.commit = message.commit();
  info.backend = message.backend();
  for (const v1::DeviceInfo& device : message.devices()) {
    info.devices.push_back(
        {device.id(), device.name(), device.memory_bytes(), device.architecture()});
  }
  for (const v1::KernelSupport& kernel : message.kernels()) {
    const absl::StatusOr<DType> dtype = FromMessage(kernel.dtype());
    if (!dtype.ok()) return dtype.status();
    if (kernel.operation() < v1::FORWARD || kernel.operation() > v1::HVP) {
      return BrokenContract(Text("operation ", static_cast<int>(kernel.operation())));
    }
    info.kernels.push_back({static_cast<Operation>(kernel.operation() - v1::FORWARD),
                            FromMessage(kernel.implementation()), *dtype, kernel.min_head_dim(),
                            kernel.max_head_dim(), kernel.head_dim_multiple()});
  }
  const v1::ServerLimits& limits = message.limits();
  info.limits.max_message_bytes = limits.max_message_bytes();
  info.limits.max_tensor_bytes = limits.max_tensor_bytes();
  info.limits.max_queued_requests = limits.max_queued_requests();
  info.limits.max_queued_bytes = limits.max_queued_bytes();
  info.limits.default_ttl = absl::Milliseconds(limits.default_ttl_ms());
  info.limits.max_ttl = absl::Milliseconds(limits.max_ttl_ms());
  info.limits.max_pin = absl::Milliseconds(limits.max_pin_ms());
  info.limits.max_benchmark_repetitions = limits.max_benchmark_repetitions();
  info.store = {message.store().capacity_bytes(), message.store().used_bytes(),
                message.store().entries()};
  info.uptime = absl::Seconds(message.uptime_seconds());
  info.shared_memory = message.shared_memory();
  return info;
}

ExecutionInfo FromMessage(const v1::ExecutionInfo& message) {
  ExecutionInfo info;
  info.request_id = message.request_id();
  info.implementation = FromMessage(message.implementation());
  info.kernel = message.kernel();
  info.device = message.device();
  info.queue_time = absl::Seconds(message.queue_seconds());
  info.compute_time = absl::Seconds(message.compute_seconds());
  return info;
}

std::int64_t ToMilliseconds(absl::Duration duration) {
  return absl::ToInt64Milliseconds(absl::Ceil(duration, absl::Milliseconds(1)));
}

TensorBuilder::TensorBuilder(DType dtype, Shape shape, std::size_t size_bytes)
    : dtype_(dtype),
      shape_(std::move(shape)),
      size_bytes_(size_bytes),
      elements_(new char[size_bytes]) {}

absl::Status TensorBuilder::Begin(const v1::TensorInfo& info,
                                  std::optional<TensorBuilder>& builder) {
  if (builder.has_value()) return BrokenContract("a second tensor info in a download");
  const absl::StatusOr<DType> dtype = FromMessage(info.dtype());
  if (!dtype.ok()) return dtype.status();
  const absl::StatusOr<std::size_t> size_bytes = SizeBytes(*dtype, ShapeOf(info));
  if (!size_bytes.ok()) return size_bytes.status();
  builder.emplace(TensorBuilder(*dtype, ShapeOf(info), *size_bytes));
  return absl::OkStatus();
}

absl::Status TensorBuilder::Append(std::string_view chunk) {
  if (chunk.size() > size_bytes_ - filled_bytes_) {
    return BrokenContract("more bytes in a download than its tensor has");
  }
  std::memcpy(elements_.get() + filled_bytes_, chunk.data(), chunk.size());
  filled_bytes_ += chunk.size();
  return absl::OkStatus();
}

absl::StatusOr<Tensor> TensorBuilder::Finish() && {
  if (filled_bytes_ != size_bytes_) {
    return BrokenContract(Text("a download of ", filled_bytes_, " bytes, must be ", size_bytes_));
  }
  const void* data = elements_.get();
  return Tensor::Adopt(std::move(elements_), dtype_, data, std::move(shape_));
}

}  // namespace theria::client
