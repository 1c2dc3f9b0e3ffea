#include "client/cpp/src/client_impl.h"

#include <algorithm>
#include <optional>
#include <string>

#include "absl/time/clock.h"
#include "client/cpp/src/attention_codec.h"
#include "client/cpp/src/message_codec.h"
#include "client/cpp/src/resident_tensor_state.h"
#include "client/cpp/src/sha256.h"

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
  add(request.options.mask);
  return tensors;
}

}  // namespace

CallContext Client::Impl::Begin(const CallOptions& call) const {
  const absl::Duration timeout = call.timeout == absl::ZeroDuration() ? timeout_ : call.timeout;
  return {.deadline = absl::Now() + timeout};
}

template <typename Request, typename Response>
absl::StatusOr<AttentionResult> Client::Impl::Run(
    absl::Status (Connection::*method)(const Request&, Response*, CallContext&),
    const AttentionRequest& request, const CallOptions& options) {
  const absl::Time start = absl::Now();
  CallContext call = Begin(options);
  Response response;
  const absl::Status status = WithUploadAnew(ResidentInputs(request), call, [&]() -> absl::Status {
    Request message;
    const absl::Status encoded = EncodeRequest(request, &message);
    if (!encoded.ok()) return encoded;
    return (connection_.get()->*method)(message, &response, call);
  });
  if (!status.ok()) return status;
  absl::StatusOr<AttentionResult> result = DecodeResponse(&response);
  if (!result.ok()) return result;
  result->execution.rpc_time = call.rpc_time;
  result->execution.total_time = absl::Now() - start;
  return result;
}

template absl::StatusOr<AttentionResult> Client::Impl::Run(
    absl::Status (Connection::*)(const v1::ForwardRequest&, v1::ForwardResponse*, CallContext&),
    const AttentionRequest&, const CallOptions&);
template absl::StatusOr<AttentionResult> Client::Impl::Run(
    absl::Status (Connection::*)(const v1::VjpRequest&, v1::VjpResponse*, CallContext&),
    const AttentionRequest&, const CallOptions&);
template absl::StatusOr<AttentionResult> Client::Impl::Run(
    absl::Status (Connection::*)(const v1::JvpRequest&, v1::JvpResponse*, CallContext&),
    const AttentionRequest&, const CallOptions&);
template absl::StatusOr<AttentionResult> Client::Impl::Run(
    absl::Status (Connection::*)(const v1::HvpRequest&, v1::HvpResponse*, CallContext&),
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
  const absl::Status status = connection_->Upload(header, row_major, &response, call);
  if (!status.ok()) return status;
  return FromMessage(response.info());
}

absl::Status Client::Impl::WithUploadAnew(const std::vector<ResidentTensor>& used,
                                          CallContext& call,
                                          const std::function<absl::Status()>& attempt) {
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
  if (!source.has_value()) return false;
  const absl::StatusOr<TensorInfo> info = Upload(source->tensor, source->options, call);
  if (!info.ok()) return false;
  absl::MutexLock lock(&state.mutex);
  state.lost_handles.push_back(std::move(state.handle));
  state.handle = info->handle;
  return true;
}

}  // namespace theria::client
