#include "client/cpp/src/client_impl.h"

#include <algorithm>
#include <optional>
#include <string>

#include "absl/time/clock.h"
#include "client/cpp/src/attention_codec.h"
#include "client/cpp/src/message_codec.h"
#include "client/cpp/src/output_room.h"
#include "client/cpp/src/region_descriptor.h"
#include "client/cpp/src/resident_tensor_state.h"
#include "client/cpp/src/sha256.h"
#include "client/cpp/src/status_codec.h"

namespace theria::client {
namespace {

// The resident tensors that the request names, each once.
std::vector<ResidentTensor> ResidentInputs(const AttentionRequest& request) {
  std::vector<ResidentTensor> tensors;
  const auto add = [&](const AnyTensor& tensor) {
    if (!tensor.is_resident()) return;
    const bool known = std::any_of(tensors.begin(), tensors.end(), [&](const auto& other) {
      return other.state() == tensor.resident().state();
    });
    if (!known) tensors.push_back(tensor.resident());
  };
  for (const InputField& field : kInputFields) add(request.*field.member);
  for (const OptionTensor& option : kOptionTensors) add(request.options.*option.member);
  return tensors;
}

// Whether a call that ended so has ended on the server too. Other codes gRPC gives by itself.
bool IsAnswer(const absl::Status& status) {
  return status.ok() || absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status) ||
         absl::IsResourceExhausted(status) || absl::IsUnimplemented(status);
}

}  // namespace

CallContext Client::Impl::Begin(const CallOptions& call) const {
  const absl::Duration timeout = call.timeout == absl::ZeroDuration() ? timeout_ : call.timeout;
  return {.deadline = absl::Now() + timeout};
}

template <typename Request, typename Response>
absl::StatusOr<AttentionResult> Client::Impl::Run(
    Operation operation,
    absl::Status (Connection::*method)(const Request&, Response*, CallContext&),
    const AttentionRequest& request, const CallOptions& options) {
  const absl::Time start = absl::Now();
  CallContext call = Begin(options);
  Response response;
  std::shared_ptr<SharedRoom> room;
  const absl::Status status = WithRepair(ResidentInputs(request), call, [&]() -> absl::Status {
    Request message;
    call.payloads.clear();
    const absl::Status encoded = EncodeRequest(request, regions_, &message, &call.payloads);
    if (!encoded.ok()) return encoded;
    const auto take = [&] {
      message.mutable_outputs()->Clear();
      EncodeOutputs(request.outputs, message.mutable_outputs());
      return TakeOutputRoom(operation, request, regions_, message.mutable_outputs());
    };
    return InRoom(room, call, take,
                  [&] { return (connection_.get()->*method)(message, &response, call); });
  });
  if (!status.ok()) return status;
  absl::StatusOr<AttentionResult> result = DecodeResponse(&response, room);
  if (!result.ok()) return result;
  result->execution.rpc_time = call.rpc_time;
  result->execution.total_time = absl::Now() - start;
  return result;
}

template absl::StatusOr<AttentionResult> Client::Impl::Run(
    Operation,
    absl::Status (Connection::*)(const v1::ForwardRequest&, v1::ForwardResponse*, CallContext&),
    const AttentionRequest&, const CallOptions&);
template absl::StatusOr<AttentionResult> Client::Impl::Run(
    Operation, absl::Status (Connection::*)(const v1::VjpRequest&, v1::VjpResponse*, CallContext&),
    const AttentionRequest&, const CallOptions&);
template absl::StatusOr<AttentionResult> Client::Impl::Run(
    Operation, absl::Status (Connection::*)(const v1::JvpRequest&, v1::JvpResponse*, CallContext&),
    const AttentionRequest&, const CallOptions&);
template absl::StatusOr<AttentionResult> Client::Impl::Run(
    Operation, absl::Status (Connection::*)(const v1::HvpRequest&, v1::HvpResponse*, CallContext&),
    const AttentionRequest&, const CallOptions&);

absl::StatusOr<TensorInfo> Client::Impl::Upload(const Tensor& tensor, const PutOptions& options,
                                                CallContext& call) {
  const Tensor row_major = tensor.RowMajor();
  v1::UploadHeader header;
  header.set_dtype(ToMessage(row_major.dtype()));
  header.mutable_shape()->Add(row_major.shape().begin(), row_major.shape().end());
  header.set_ttl_ms(ToMilliseconds(options.ttl));
  header.set_pin_ms(ToMilliseconds(options.pin));
  if (options.content_addressed) {
    header.set_sha256(Sha256(row_major.data(), row_major.size_bytes()));
  }
  v1::UploadResponse response;
  const absl::Status status = WithoutLostRegions(call, [&] {
    header.clear_shared_memory();
    // Of what is in shared memory the server takes no digest: it could change meanwhile.
    if (!options.content_addressed) {
      if (auto part = regions_.PartOf(row_major)) *header.mutable_shared_memory() = *part;
    }
    return connection_->Upload(header, row_major, &response, call);
  });
  if (!status.ok()) return status;
  return FromMessage(response.info());
}

absl::StatusOr<Tensor> Client::Impl::Download(const ResidentTensor& tensor,
                                              const SharedRegion* region, CallContext& call) {
  absl::StatusOr<Tensor> result;
  const absl::Status status = WithRepair({tensor}, call, [&]() -> absl::Status {
    if (region == nullptr || !regions_.Has(*region)) {
      result = connection_->Download(tensor.handle(), call);
      return result.status();
    }
    v1::DownloadRequest request;
    request.set_handle(tensor.handle());
    std::shared_ptr<SharedRoom> room;
    const auto take = [&]() -> absl::StatusOr<std::shared_ptr<SharedRoom>> {
      const std::optional<std::size_t> size_bytes =
          CheckedSizeBytes(tensor.dtype(), tensor.shape());
      if (!size_bytes.has_value()) return absl::InternalError("a tensor of no size");
      absl::StatusOr<std::shared_ptr<SharedRoom>> taken = region->state()->Take(*size_bytes);
      if (taken.ok()) {
        *request.mutable_shared_memory() = (*taken)->reference();
        request.mutable_shared_memory()->set_size_bytes(*size_bytes);
      }
      return taken;
    };
    const absl::Status sent =
        InRoom(room, call, take, [&] { return connection_->DownloadShared(request, call); });
    if (sent.ok()) {
      result = Tensor::AdoptWritable(room, tensor.dtype(), room->data(), tensor.shape());
    }
    return sent;
  });
  if (!status.ok()) return status;
  return result;
}

absl::Status Client::Impl::Delete(const ResidentTensor& tensor, CallContext& call) {
  ResidentTensor::State& state = *tensor.state();
  // A concurrent call that misses the tensor waits, and then finds no source to upload.
  absl::MutexLock upload_lock(&state.upload_mutex);
  v1::DeleteRequest request;
  request.set_handle(tensor.handle());
  v1::DeleteResponse response;
  const absl::Status status = connection_->Delete(request, &response, call);
  absl::MutexLock lock(&state.mutex);
  if (!state.source.has_value()) return status;
  // To others than its owner the tensor is missing also where it lives on, as another tenant's.
  const bool is_lost =
      !DetailsOf(status).missing_handles.empty() && state.source->owner.lock() == connection_;
  if (status.ok() || is_lost) state.source.reset();
  return status;
}

absl::StatusOr<SharedRegion> Client::Impl::Share(std::size_t size_bytes, absl::Duration ttl,
                                                 CallContext& call) {
  v1::CreateRegionRequest request;
  // As it is where there is no next multiple; the server then says so.
  request.set_size_bytes(std::max(size_bytes, AlignedBytes(size_bytes)));
  request.set_ttl_ms(ToMilliseconds(ttl));
  v1::RegionInfo info;
  const absl::Status status = connection_->CreateRegion(request, &info, call);
  if (!status.ok()) return status;
  const absl::StatusOr<std::shared_ptr<SharedRegion::State>> state = MapRegion(info, call.deadline);
  if (!state.ok()) {
    // Of no use to anybody; should this fail too, it goes with its lease.
    v1::DeleteRegionRequest unused;
    unused.set_name(info.name());
    v1::DeleteRegionResponse ignored;
    connection_->DeleteRegion(unused, &ignored, call).IgnoreError();
    return state.status();
  }
  SharedRegion region(*state);
  regions_.Add(region);
  return region;
}

absl::StatusOr<absl::Duration> Client::Impl::Renew(SharedRegion::State& region, absl::Duration ttl,
                                                   CallContext& call) {
  v1::RenewRegionRequest request;
  request.set_name(region.name());
  request.set_ttl_ms(ToMilliseconds(ttl));
  v1::RegionInfo info;
  const absl::Status status = OfRegion(region, connection_->RenewRegion(request, &info, call));
  if (!status.ok()) return status;
  return absl::Milliseconds(info.expires_in_ms());
}

absl::Status Client::Impl::Unshare(SharedRegion::State& region, CallContext& call) {
  region.SetLost();
  v1::DeleteRegionRequest request;
  request.set_name(region.name());
  v1::DeleteRegionResponse response;
  return OfRegion(region, connection_->DeleteRegion(request, &response, call));
}

absl::Status Client::Impl::OfRegion(SharedRegion::State& region, const absl::Status& status) {
  if (!absl::IsUnimplemented(status) && DetailsOf(status).missing_regions.empty()) return status;
  region.SetLost();
  return RegionLost(std::string(status.message()));
}

absl::Status Client::Impl::WithRepair(const std::vector<ResidentTensor>& used, CallContext& call,
                                      absl::FunctionRef<absl::Status()> attempt) {
  return WithoutLostRegions(call, [&] { return WithUploadAnew(used, call, attempt); });
}

absl::Status Client::Impl::WithoutLostRegions(CallContext& call,
                                              absl::FunctionRef<absl::Status()> attempt) {
  const auto had = regions_.All();
  const absl::Status status = attempt();
  const bool is_missing = !DetailsOf(status).missing_regions.empty();
  if (!is_missing && !absl::IsUnimplemented(status)) return status;
  // Which are lost, the fields of a request do not say; nor UNIMPLEMENTED, whether any is.
  for (const auto& region : regions_.All())
    Renew(*region, absl::ZeroDuration(), call).IgnoreError();
  const bool has_lost =
      std::any_of(had.begin(), had.end(), [](const auto& region) { return !region->is_shared(); });
  return is_missing || has_lost ? attempt() : status;
}

absl::Status Client::Impl::InRoom(
    std::shared_ptr<SharedRoom>& room, CallContext& call,
    absl::FunctionRef<absl::StatusOr<std::shared_ptr<SharedRoom>>()> take,
    absl::FunctionRef<absl::Status()> send) {
  const auto take_anew = [&]() -> absl::Status {
    absl::StatusOr<std::shared_ptr<SharedRoom>> taken = take();
    if (!taken.ok()) return taken.status();
    room = *std::move(taken);
    return absl::OkStatus();
  };
  room.reset();
  if (absl::Status taken = take_anew(); !taken.ok()) return taken;
  call.before_retry = [&]() -> absl::Status {
    if (room == nullptr) return absl::OkStatus();
    room->Abandon();
    return take_anew();
  };
  absl::Status status = send();
  call.before_retry = nullptr;
  if (room != nullptr && !IsAnswer(status)) room->Abandon();
  return status;
}

absl::Status Client::Impl::WithUploadAnew(const std::vector<ResidentTensor>& used,
                                          CallContext& call,
                                          absl::FunctionRef<absl::Status()> attempt) {
  const absl::Status status = attempt();
  if (!absl::IsFailedPrecondition(status)) return status;
  const std::vector<std::string> missing = DetailsOf(status).missing_handles;
  if (missing.empty()) return status;
  for (const std::string& handle : missing) {
    const bool restored = std::any_of(used.begin(), used.end(), [&](const ResidentTensor& tensor) {
      return UploadAnew(tensor, handle, call);
    });
    if (!restored) return status;
  }
  return attempt();
}

bool Client::Impl::UploadAnew(const ResidentTensor& tensor, const std::string& missing_handle,
                              CallContext& call) {
  ResidentTensor::State& state = *tensor.state();
  absl::MutexLock upload_lock(&state.upload_mutex);
  std::optional<RetainedSource> source;
  {
    absl::MutexLock lock(&state.mutex);
    if (state.handle != missing_handle) {
      // Perhaps a concurrent call missed it too, and was faster.
      return std::find(state.lost_handles.begin(), state.lost_handles.end(), missing_handle) !=
             state.lost_handles.end();
    }
    source = state.source;
  }
  if (!source.has_value() || source->owner.lock() != connection_) return false;
  const absl::StatusOr<TensorInfo> info = Upload(source->tensor, source->options, call);
  if (!info.ok()) return false;
  absl::MutexLock lock(&state.mutex);
  state.lost_handles.push_back(std::move(state.handle));
  state.handle = info->handle;
  return true;
}

}  // namespace theria::client
