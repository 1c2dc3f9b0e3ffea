#include "tests/unit/client/cli/faulty_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "client/cli/parity/explicit_attention.h"
#include "client/cli/parity/tolerance.h"

namespace theria::cli {
namespace {

using client::AnyTensor;
using client::AttentionRequest;
using client::AttentionResult;
using client::DType;
using client::Operation;
using client::Shape;
using client::Tensor;

// Replaces the elements of a tensor, if it is there, by what `change` makes of them.
template <typename Function>
void Change(AnyTensor& tensor, Function change) {
  if (!tensor.has_value()) return;
  std::vector<double> values = tensor.local().ToDoubles();
  change(values);
  tensor = Tensor::FromDoubles(tensor.local().dtype(), values, tensor.local().shape());
}

// Multiplies each row of the last dimension by its factor.
void ScaleRows(const std::vector<double>& factors, AnyTensor& tensor) {
  if (!tensor.has_value()) return;
  tensor = tensor.local().Cast(DType::kFloat64);
  Change(tensor, [&](std::vector<double>& values) {
    const std::size_t columns = values.size() / factors.size();
    for (std::size_t n = 0; n < values.size(); ++n) values[n] *= factors[n / columns];
  });
}

void Add(const AnyTensor& more, AnyTensor& tensor) {
  const std::vector<double> addends = more.local().ToDoubles();
  Change(tensor, [&](std::vector<double>& values) {
    for (std::size_t n = 0; n < values.size(); ++n) values[n] += addends[n];
  });
}

// Reorders heads: head h of the result is head from[h].
void ReorderHeads(const std::vector<std::int64_t>& from, AnyTensor& tensor) {
  if (!tensor.has_value()) return;
  const Shape& shape = tensor.local().shape();
  const std::vector<double> old = tensor.local().ToDoubles();
  const auto heads = from.size();
  const std::size_t size = old.size() / static_cast<std::size_t>(shape[0]) / heads;
  Change(tensor, [&](std::vector<double>& values) {
    for (std::size_t n = 0; n < values.size(); ++n) {
      const std::size_t b = n / size / heads;
      const auto h = static_cast<std::size_t>(from[n / size % heads]);
      values[n] = old[(b * heads + h) * size + n % size];
    }
  });
}

// Computes query head h with key head h % heads_kv.
AttentionResult RunWithTransposedGroups(Operation operation, AttentionRequest request) {
  const std::int64_t heads_q = request.q.local().shape()[1];
  const std::int64_t heads_kv = request.k.local().shape()[1];
  const std::int64_t group = heads_q / heads_kv;
  std::vector<std::int64_t> forth, back(static_cast<std::size_t>(heads_q));
  for (std::int64_t h = 0; h < heads_q; ++h) {
    forth.push_back(h % group * heads_kv + h / group);
    back[static_cast<std::size_t>(forth.back())] = h;
  }
  for (AnyTensor* tensor : {&request.q, &request.o_bar, &request.q_dot, &request.o_bar_dot}) {
    ReorderHeads(forth, *tensor);
  }
  AttentionResult result = ExactAttention(operation, request);
  for (AnyTensor* tensor :
       {&result.o, &result.lse, &result.o_dot, &result.lse_dot, &result.q_bar, &result.q_bar_dot}) {
    ReorderHeads(back, *tensor);
  }
  return result;
}

// Adds what the tangent of lse takes away: mu o to o_dot, and the VJP of mu o_bar to the HVP.
void Freeze(Operation operation, const AttentionRequest& request, AttentionResult& result) {
  if (!result.lse_dot.has_value()) return;
  const std::vector<double> mu = result.lse_dot.local().ToDoubles();
  AnyTensor mu_o = result.o;
  ScaleRows(mu, mu_o);
  Add(mu_o, result.o_dot);
  Change(result.lse_dot,
         [](std::vector<double>& values) { std::fill(values.begin(), values.end(), 0.0); });
  if (operation != Operation::kHvp) return;
  AttentionRequest vjp = request;
  ScaleRows(mu, vjp.o_bar);
  const AttentionResult more = ExactAttention(Operation::kVjp, vjp);
  Add(more.q_bar, result.q_bar_dot);
  Add(more.k_bar, result.k_bar_dot);
  Add(more.v_bar, result.v_bar_dot);
}

// P times a factor r for each row gives the derivatives of o_bar and o_bar_dot times r.
void RoundLse(AttentionRequest& request) {
  const DType dtype = client::StatisticsDType(request.q.local().dtype());
  const int digits = dtype == DType::kFloat64 ? 53 : 24;
  const AttentionResult forward = ExactAttention(Operation::kForward, request);
  std::vector<double> factors = forward.lse.local().ToDoubles();
  for (double& factor : factors) {
    if (std::isfinite(factor)) factor = std::exp(std::ldexp(0.5, std::ilogb(factor) - digits + 1));
  }
  ScaleRows(factors, request.o_bar);
  ScaleRows(factors, request.o_bar_dot);
}

// Every row of a head gets NaN in the columns where any of its values is not finite.
void SpreadNaN(const AttentionRequest& request, AttentionResult& result) {
  const Tensor& v = request.v.local();
  const std::vector<double> v_values = v.ToDoubles();
  const auto columns = static_cast<std::size_t>(v.shape()[3]);
  const auto seq_kv = static_cast<std::size_t>(v.shape()[2]);
  const auto seq_q = static_cast<std::size_t>(request.q.local().shape()[2]);
  const auto group = static_cast<std::size_t>(request.q.local().shape()[1] / v.shape()[1]);
  Change(result.o, [&](std::vector<double>& values) {
    for (std::size_t n = 0; n < v_values.size(); ++n) {
      if (std::isfinite(v_values[n])) continue;
      const std::size_t plane = n / columns / seq_kv;  // batch * heads_kv + head
      for (std::size_t row = plane * group * seq_q; row < (plane + 1) * group * seq_q; ++row) {
        values[row * columns + n % columns] = std::nan("");
      }
    }
  });
}

void ChangeRequest(Fault fault, AttentionRequest& request) {
  client::AttentionOptions& options = request.options;
  const bool has_mask = options.mask.has_value();
  const bool mask_is_bool = has_mask && options.mask.local().dtype() == DType::kBool;
  switch (fault) {
    case Fault::kCausalOffByOne:
      if (!options.is_causal) return;
      options.is_causal = false;
      if (!options.window.has_value()) options.window.emplace();
      options.window->right = std::min<std::int64_t>(options.window->right.value_or(1), 1);
      return;
    case Fault::kWindowOffByOneLeft:
      if (options.window.has_value() && options.window->left) ++*options.window->left;
      return;
    case Fault::kWindowOffByOneRight:
      if (options.window.has_value() && options.window->right) ++*options.window->right;
      return;
    case Fault::kIgnoresBoolMask:
      if (mask_is_bool) options.mask = {};
      return;
    case Fault::kIgnoresFloatMask:
      if (has_mask && !mask_is_bool) options.mask = {};
      return;
    case Fault::kNegatesFloatMask:
      if (mask_is_bool) return;
      Change(options.mask, [](std::vector<double>& values) {
        for (double& value : values) value = std::isfinite(value) ? -value : value;
      });
      return;
    case Fault::kOtherDropoutBits:
      ++options.dropout.offset;
      return;
    case Fault::kSlopesOfOtherHeads:
      Change(options.alibi_slopes, [](std::vector<double>& values) {
        std::rotate(values.begin(), values.begin() + 1, values.end());
      });
      return;
    case Fault::kLengthOffByOne:
      Change(options.kv_lengths, [](std::vector<double>& values) { values.back() += 1.0; });
      return;
    case Fault::kDocumentOffByOne:
      Change(options.cu_seqlens_q, [](std::vector<double>& values) { values[1] -= 1.0; });
      return;
    case Fault::kRoundsLse:
      RoundLse(request);
      return;
    case Fault::kIgnoresStrides:
      for (const client::InputField& field : client::kInputFields) {
        AnyTensor& input = request.*field.member;
        if (!input.has_value()) continue;
        const Tensor& view = input.local();
        if (view.span_bytes() != view.size_bytes()) continue;
        input = Tensor::Borrow(view.dtype(), view.data(), view.shape()).RowMajor();
      }
      return;
    default:
      return;
  }
}

void ChangeResult(Fault fault, Operation operation, const AttentionRequest& request,
                  AttentionResult& result) {
  const auto change_all = [&](auto change) {
    for (const client::OutputField& field : client::kOutputFields) {
      if (field.name != "lse" && field.name != "lse_dot") Change(result.*field.member, change);
    }
  };
  switch (fault) {
    case Fault::kForgetsDropoutScale:
      change_all([&](std::vector<double>& values) {
        for (double& value : values) value *= 1.0 - request.options.dropout.probability;
      });
      return;
    case Fault::kSwallowsNaN:
      change_all([](std::vector<double>& values) {
        for (double& value : values) value = std::isnan(value) ? 0.0 : value;
      });
      return;
    case Fault::kSpreadsNaN:
      SpreadNaN(request, result);
      return;
    case Fault::kFrozenStatistics:
      Freeze(operation, request, result);
      return;
    case Fault::kNaNInEmptyRows: {
      const std::vector<double> lse = result.lse.local().ToDoubles();
      Change(result.o, [&](std::vector<double>& values) {
        for (std::size_t n = 0; n < values.size(); ++n) {
          if (std::isinf(lse[n * lse.size() / values.size()])) values[n] = std::nan("");
        }
      });
      return;
    }
    case Fault::kBiasBarOfOneBatch:
      for (AnyTensor* tensor : {&result.bias_bar, &result.bias_bar_dot}) {
        const auto batch = static_cast<double>(request.q.local().shape()[0]);
        Change(*tensor, [&](std::vector<double>& values) {
          for (double& value : values) value /= batch;
        });
      }
      return;
    case Fault::kOneWrongElement:
      Change(result.k_bar, [](std::vector<double>& values) {
        double largest = 0.0;
        for (const double value : values) largest = std::max(largest, std::fabs(value));
        values.back() += 0.01 * largest;
      });
      return;
    default:
      return;
  }
}

}  // namespace

absl::StatusOr<AttentionResult> FaultyAttention::Run(Operation operation,
                                                     const AttentionRequest& request,
                                                     const client::CallOptions&) {
  // Nothing can be wrong with the elements of an empty tensor.
  const bool is_empty =
      request.q.local().num_elements() == 0 || request.k.local().num_elements() == 0;
  const Fault fault = is_empty ? Fault::kNone : fault_;
  AttentionRequest changed = request;
  ChangeRequest(fault, changed);
  Ignore(changed);
  AttentionResult result = fault == Fault::kTransposesGroups
                               ? RunWithTransposedGroups(operation, changed)
                               : ExactAttention(operation, changed);
  ChangeResult(fault, operation, request, result);
  const DType dtype = request.q.local().dtype();
  for (const client::OutputField& field : client::kOutputFields) {
    AnyTensor& output = result.*field.member;
    if (!output.has_value()) continue;
    const bool is_statistic = field.name == "lse" || field.name == "lse_dot";
    const bool is_of_bias = field.name.starts_with("bias");
    DType of_output = is_statistic ? client::StatisticsDType(dtype) : dtype;
    if (is_of_bias) of_output = request.options.mask.local().dtype();
    output = output.local().Cast(of_output);
  }
  if (ignored_ == "deterministic" && ++calls_ % 2 == 0) {
    std::vector<double> values = result.o.local().ToDoubles();
    values[0] += values[0] * 2 * UnitRoundoff(dtype, client::Precision::kStrict);
    result.o = Tensor::FromDoubles(dtype, values, result.o.local().shape());
  }
  return result;
}

void FaultyAttention::Ignore(AttentionRequest& request) const {
  for (const client::InputField& input : client::kInputFields) {
    if (input.name == ignored_) request.*input.member = {};
  }
  client::AttentionOptions& options = request.options;
  for (const client::OptionTensor& option : client::kOptionTensors) {
    if (option.name == ignored_) options.*option.member = {};
  }
  // Of documents there are both or neither.
  if (ignored_.starts_with("cu_seqlens")) options.cu_seqlens_q = options.cu_seqlens_kv = {};
  client::ForEachPlainOption([&](const auto& option) {
    if (option.name == ignored_) options.*option.member = client::AttentionOptions().*option.member;
  });
}

client::ServerInfo FaultyAttention::Info(client::Implementation implementation) {
  client::ServerInfo info;
  for (const Operation operation :
       {Operation::kForward, Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
    for (const DType dtype :
         {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      info.kernels.push_back({.operation = operation,
                              .implementation = implementation,
                              .dtype = dtype,
                              .min_head_dim = 1,
                              .max_head_dim = 512,
                              .head_dim_multiple = 1});
    }
  }
  return info;
}

}  // namespace theria::cli
