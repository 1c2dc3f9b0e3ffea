#ifndef THERIA_TESTS_UNIT_CLIENT_MAML_FAKE_SERVER_H_
#define THERIA_TESTS_UNIT_CLIENT_MAML_FAKE_SERVER_H_

#include <vector>

#include "theria/attention.h"
#include "theria/maml_dense_attention.h"

namespace theria::maml {

// [batch, 1, seq, dim] as [batch * seq, dim].
inline Matrix StackedRows(const client::AnyTensor& tensor) {
  const client::Shape& shape = tensor.local().shape();
  const std::vector<double> values = tensor.local().ToDoubles();
  return Eigen::Map<const Matrix>(values.data(), shape[0] * shape[2], shape[3]);
}

// Serves as a theria server would, from the dense oracle, and remembers the last request.
class FakeServer : public client::Attention {
 public:
  absl::StatusOr<client::AttentionResult> Run(client::Operation operation,
                                              const client::AttentionRequest& request,
                                              const client::CallOptions& /*call*/) override {
    if (!error.ok()) return error;
    last = request;
    const client::Tensor& q = request.q.local();
    const int batch = static_cast<int>(q.shape()[0]);
    const auto reply = [&](const Matrix& matrix) {
      return client::Tensor::FromDoubles(q.dtype(),
                                         {matrix.data(), static_cast<std::size_t>(matrix.size())},
                                         {batch, 1, matrix.rows() / batch, matrix.cols()});
    };
    const Qkv x = {StackedRows(request.q), StackedRows(request.k), StackedRows(request.v)};
    const AttentionOutput output = *dense_.Forward(batch, x);
    client::AttentionResult result;
    if (operation == client::Operation::kForward || operation == client::Operation::kJvp) {
      result.o = reply(output.o);
    }
    if (operation == client::Operation::kForward ||
        request.outputs.lse == client::OutputMode::kInline) {
      result.lse = client::Tensor::FromDoubles(
          client::StatisticsDType(q.dtype()),
          {output.lse.data(), static_cast<std::size_t>(output.lse.size())},
          {batch, 1, output.lse.size() / batch});
    }
    if (operation == client::Operation::kVjp) {
      const Qkv bar = *dense_.Vjp(batch, x, output, StackedRows(request.o_bar));
      result.q_bar = reply(bar.q), result.k_bar = reply(bar.k), result.v_bar = reply(bar.v);
    } else if (operation != client::Operation::kForward) {
      const Qkv x_dot = {StackedRows(request.q_dot), StackedRows(request.k_dot),
                         StackedRows(request.v_dot)};
      if (operation == client::Operation::kJvp) {
        result.o_dot = reply(dense_.Jvp(batch, x, x_dot)->o_dot);
      } else {
        const Qkv bar_dot = *dense_.Hvp(batch, x, output, StackedRows(request.o_bar), x_dot,
                                        StackedRows(request.o_bar_dot));
        result.q_bar_dot = reply(bar_dot.q), result.k_bar_dot = reply(bar_dot.k);
        result.v_bar_dot = reply(bar_dot.v);
      }
    }
    result.execution = {.queue_time = absl::Microseconds(1),
                        .compute_time = absl::Microseconds(10),
                        .rpc_time = absl::Microseconds(100),
                        .total_time = absl::Microseconds(1000)};
    return result;
  }

  absl::Status error;
  client::AttentionRequest last;

 private:
  DenseAttention dense_;
};

}  // namespace theria::maml

#endif  // THERIA_TESTS_UNIT_CLIENT_MAML_FAKE_SERVER_H_
