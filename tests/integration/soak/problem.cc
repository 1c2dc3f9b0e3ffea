#include "tests/integration/soak/problem.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "theria/maml_dense_attention.h"

namespace theria::soak {
namespace {

using client::Operation;
using maml::Matrix;

// Relative to the largest element; float64 sums in another order, the others round once.
double Tolerance(client::DType dtype) {
  switch (dtype) {
    case client::DType::kFloat64:
      return 1e-12;
    case client::DType::kFloat32:
      return 1e-6;
    case client::DType::kFloat16:
      return 1e-3;
    default:
      return 8e-3;
  }
}

// A tensor and the same elements as the oracle reads them: batch and heads stacked.
struct Drawn {
  client::Tensor tensor;
  Matrix matrix;
};

Drawn Draw(client::DType dtype, const client::Shape& shape, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  std::vector<double> values(static_cast<std::size_t>(client::NumElements(shape)));
  for (double& value : values) value = normal(random);
  Drawn drawn{client::Tensor::FromDoubles(dtype, values, shape), {}};
  const std::vector<double> rounded = drawn.tensor.ToDoubles();
  drawn.matrix = Eigen::Map<const Matrix>(rounded.data(), shape[0] * shape[1] * shape[2], shape[3]);
  return drawn;
}

template <typename Dense>
std::vector<double> Elements(const Dense& dense) {
  return {dense.data(), dense.data() + dense.size()};
}

}  // namespace

Problem::Problem(const ProblemSize& size, std::uint64_t seed) : size_(size) {
  std::mt19937_64 random(seed);
  const auto draw = [&](int seq, int dim) {
    return Draw(size.dtype, {size.batch, size.heads, seq, dim}, random);
  };
  const Drawn q = draw(size.seq_q, size.head_dim), q_dot = draw(size.seq_q, size.head_dim);
  const Drawn k = draw(size.seq_kv, size.head_dim), k_dot = draw(size.seq_kv, size.head_dim);
  const Drawn v = draw(size.seq_kv, size.head_dim_v), v_dot = draw(size.seq_kv, size.head_dim_v);
  const Drawn o_bar = draw(size.seq_q, size.head_dim_v);
  const Drawn o_bar_dot = draw(size.seq_q, size.head_dim_v);

  for (const Operation operation :
       {Operation::kForward, Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
    client::AttentionRequest& request = requests_[static_cast<std::size_t>(operation)];
    request.q = q.tensor, request.k = k.tensor, request.v = v.tensor;
    if (operation == Operation::kVjp || operation == Operation::kHvp) request.o_bar = o_bar.tensor;
    if (operation == Operation::kJvp || operation == Operation::kHvp) {
      request.q_dot = q_dot.tensor, request.k_dot = k_dot.tensor, request.v_dot = v_dot.tensor;
    }
    if (operation == Operation::kHvp) request.o_bar_dot = o_bar_dot.tensor;
  }

  const int stacked = size.batch * size.heads;
  const maml::Qkv x = {q.matrix, k.matrix, v.matrix};
  const maml::Qkv x_dot = {q_dot.matrix, k_dot.matrix, v_dot.matrix};
  maml::DenseAttention oracle;
  const maml::AttentionTangent jvp = *oracle.Jvp(stacked, x, x_dot);
  const maml::Qkv bar = *oracle.Vjp(stacked, x, jvp.primal, o_bar.matrix);
  const maml::Qkv bar_dot =
      *oracle.Hvp(stacked, x, jvp.primal, o_bar.matrix, x_dot, o_bar_dot.matrix);
  const auto expect = [&](Operation operation, const std::string& name, const auto& dense) {
    expected_[static_cast<std::size_t>(operation)].emplace_back(name, Elements(dense));
  };
  expect(Operation::kForward, "o", jvp.primal.o);
  expect(Operation::kForward, "lse", jvp.primal.lse);
  expect(Operation::kJvp, "o", jvp.primal.o);
  expect(Operation::kJvp, "o_dot", jvp.o_dot);
  for (const Operation operation : {Operation::kVjp, Operation::kHvp}) {
    expect(operation, "q_bar", bar.q);
    expect(operation, "k_bar", bar.k);
    expect(operation, "v_bar", bar.v);
  }
  expect(Operation::kHvp, "q_bar_dot", bar_dot.q);
  expect(Operation::kHvp, "k_bar_dot", bar_dot.k);
  expect(Operation::kHvp, "v_bar_dot", bar_dot.v);
}

std::optional<std::string> Problem::CheckOutput(Operation operation, const std::string& output,
                                                const client::Tensor& actual) const {
  const Expected& all = expected_[static_cast<std::size_t>(operation)];
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const auto& entry) { return entry.first == output; });
  const std::vector<double> values = actual.ToDoubles();
  if (found == all.end() || values.size() != found->second.size()) {
    return absl::StrCat(output, " is unexpected or has ", values.size(), " elements");
  }
  double largest = 0.0, error = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    largest = std::max(largest, std::abs(found->second[i]));
    const double difference = std::abs(values[i] - found->second[i]);
    error = std::isnan(difference) ? INFINITY : std::max(error, difference);
  }
  if (error <= Tolerance(size_.dtype) * largest) return std::nullopt;
  return absl::StrCat(output, " is off by ", error, ", its largest element is ", largest);
}

std::optional<std::string> Problem::Check(Operation operation,
                                          const client::AttentionResult& result) const {
  for (const auto& [name, values] : expected_[static_cast<std::size_t>(operation)]) {
    const auto field =
        std::find_if(std::begin(client::kOutputFields), std::end(client::kOutputFields),
                     [&, &output = name](const auto& entry) { return entry.name == output; });
    const client::AnyTensor& tensor = result.*field->member;
    if (!tensor.is_local()) return name + " is missing";
    if (auto wrong = CheckOutput(operation, name, tensor.local())) return wrong;
  }
  return std::nullopt;
}

v1::HvpRequest LongHvp() {
  constexpr int kHeads = 2, kSeq = 512, kDim = 64;
  const double one = 1.0;
  v1::HvpRequest request;
  for (v1::Tensor* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v(),
                             request.mutable_o_bar(), request.mutable_q_dot()}) {
    tensor->set_dtype(v1::FLOAT64);
    for (const int extent : {1, kHeads, kSeq, kDim}) {
      tensor->add_shape(extent);
      tensor->add_strides(0);
    }
    tensor->set_data(&one, sizeof(one));
  }
  v1::OutputSpec* const outputs = request.mutable_outputs();
  outputs->set_q_bar(v1::SKIP);
  outputs->set_k_bar(v1::SKIP);
  outputs->set_v_bar(v1::SKIP);
  outputs->set_k_bar_dot(v1::SKIP);
  outputs->set_v_bar_dot(v1::SKIP);
  return request;
}

}  // namespace theria::soak
