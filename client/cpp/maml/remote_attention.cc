#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "theria/maml_remote_attention.h"

namespace theria::maml {
namespace {

using client::AttentionRequest;
using client::AttentionResult;
using client::Operation;
using client::OutputMode;

Matrix ToMatrix(const client::AnyTensor& tensor) {
  const client::Shape& shape = tensor.local().shape();  // [batch, 1, seq, dim]
  const std::vector<double> values = tensor.local().ToDoubles();
  return Eigen::Map<const Matrix>(values.data(), shape[0] * shape[1] * shape[2], shape[3]);
}

AttentionOutput ToOutput(const AttentionResult& result) {
  const std::vector<double> lse = result.lse.local().ToDoubles();
  return {ToMatrix(result.o),
          Eigen::Map<const Vector>(lse.data(), static_cast<Eigen::Index>(lse.size()))};
}

}  // namespace

CallStatistics& CallStatistics::operator+=(const CallStatistics& other) {
  calls += other.calls;
  total_time += other.total_time;
  rpc_time += other.rpc_time;
  queue_time += other.queue_time;
  compute_time += other.compute_time;
  return *this;
}

RemoteAttention::RemoteAttention(client::Attention& attention, const Options& options)
    : attention_(attention), options_(options) {}

client::Tensor RemoteAttention::ToTensor(int batch, const Matrix& matrix) const {
  const client::Shape shape = {batch, 1, matrix.rows() / batch, matrix.cols()};
  if (options_.dtype == client::DType::kFloat64) {
    return client::Tensor::Borrow(matrix.data(), shape);
  }
  return client::Tensor::FromDoubles(
      options_.dtype, absl::MakeConstSpan(matrix.data(), static_cast<std::size_t>(matrix.size())),
      shape);
}

AttentionRequest RemoteAttention::MakeRequest(int batch, const Qkv& x) const {
  AttentionRequest request;
  request.q = ToTensor(batch, x.q);
  request.k = ToTensor(batch, x.k);
  request.v = ToTensor(batch, x.v);
  request.options.implementation = options_.implementation;
  return request;
}

absl::StatusOr<AttentionResult> RemoteAttention::Call(Operation operation,
                                                      const AttentionRequest& request) {
  absl::StatusOr<AttentionResult> result = attention_.Run(operation, request);
  if (!result.ok()) {
    const std::string operation_name(client::OperationName(operation));
    absl::Status status(result.status().code(),
                        absl::StrCat(operation_name, ": ", result.status().message()));
    result.status().ForEachPayload([&](absl::string_view type, const absl::Cord& payload) {
      status.SetPayload(type, payload);
    });
    return status;
  }
  const client::ExecutionInfo& execution = result->execution;
  statistics_[static_cast<std::size_t>(operation)] += {.calls = 1,
                                                       .total_time = execution.total_time,
                                                       .rpc_time = execution.rpc_time,
                                                       .queue_time = execution.queue_time,
                                                       .compute_time = execution.compute_time};
  return result;
}

absl::StatusOr<AttentionOutput> RemoteAttention::Forward(int batch, const Qkv& x) {
  const absl::StatusOr<AttentionResult> result = Call(Operation::kForward, MakeRequest(batch, x));
  if (!result.ok()) return result.status();
  return ToOutput(*result);
}

absl::StatusOr<Qkv> RemoteAttention::Vjp(int batch, const Qkv& x, const AttentionOutput& saved,
                                         const Matrix& o_bar) {
  AttentionRequest request = MakeRequest(batch, x);
  SetSaved(batch, saved, request);
  request.o_bar = ToTensor(batch, o_bar);
  const absl::StatusOr<AttentionResult> result = Call(Operation::kVjp, request);
  if (!result.ok()) return result.status();
  return Qkv{ToMatrix(result->q_bar), ToMatrix(result->k_bar), ToMatrix(result->v_bar)};
}

absl::StatusOr<AttentionTangent> RemoteAttention::Jvp(int batch, const Qkv& x, const Qkv& x_dot) {
  AttentionRequest request = MakeRequest(batch, x);
  SetTangent(batch, x_dot, request);
  request.outputs.lse = OutputMode::kInline;
  const absl::StatusOr<AttentionResult> result = Call(Operation::kJvp, request);
  if (!result.ok()) return result.status();
  return AttentionTangent{ToOutput(*result), ToMatrix(result->o_dot)};
}

absl::StatusOr<Qkv> RemoteAttention::Hvp(int batch, const Qkv& x, const AttentionOutput& saved,
                                         const Matrix& o_bar, const Qkv& x_dot,
                                         const Matrix& o_bar_dot) {
  AttentionRequest request = MakeRequest(batch, x);
  SetSaved(batch, saved, request);
  SetTangent(batch, x_dot, request);
  request.o_bar = ToTensor(batch, o_bar);
  request.o_bar_dot = ToTensor(batch, o_bar_dot);
  request.outputs.q_bar = OutputMode::kSkip;
  request.outputs.k_bar = OutputMode::kSkip;
  request.outputs.v_bar = OutputMode::kSkip;
  const absl::StatusOr<AttentionResult> result = Call(Operation::kHvp, request);
  if (!result.ok()) return result.status();
  return Qkv{ToMatrix(result->q_bar_dot), ToMatrix(result->k_bar_dot), ToMatrix(result->v_bar_dot)};
}

void RemoteAttention::SetSaved(int batch, const AttentionOutput& saved,
                               AttentionRequest& request) const {
  request.o = ToTensor(batch, saved.o);
  request.lse = client::Tensor::FromDoubles(
      client::StatisticsDType(options_.dtype),
      absl::MakeConstSpan(saved.lse.data(), static_cast<std::size_t>(saved.lse.size())),
      {batch, 1, saved.lse.size() / batch});
}

void RemoteAttention::SetTangent(int batch, const Qkv& x_dot, AttentionRequest& request) const {
  request.q_dot = ToTensor(batch, x_dot.q);
  request.k_dot = ToTensor(batch, x_dot.k);
  request.v_dot = ToTensor(batch, x_dot.v);
}

CallStatistics RemoteAttention::total() const {
  CallStatistics sum;
  for (const CallStatistics& statistics : statistics_) sum += statistics;
  return sum;
}

}  // namespace theria::maml
