#include "server/rpc/benchmark_call.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <random>
#include <string_view>
#include <utility>

#include "kernels/api/attention.h"
#include "kernels/api/message.h"
#include "server/cache/relief.h"
#include "server/rpc/device_staging.h"
#include "server/rpc/execution_info.h"
#include "server/rpc/options_codec.h"

namespace theria::server {
namespace {

constexpr std::uint32_t kDefaultRepetitions = 10;
constexpr std::size_t kMaxPresetBytes = 64;
constexpr std::size_t kFillChunkElements = std::size_t{64} << 10;

// The bit pattern of 0.5 and the mask of sign and fraction: any bits under the mask give a number
// of magnitude 0.5 to 1 and either sign, in every dtype without a conversion.
struct RandomBits {
  std::uint64_t half;
  std::uint64_t mask;
};

RandomBits RandomBitsOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return {0x3FE0000000000000u, 0x800FFFFFFFFFFFFFu};
    case DType::kFloat32:
      return {0x3F000000u, 0x807FFFFFu};
    case DType::kFloat16:
      return {0x3800u, 0x83FFu};
    case DType::kBFloat16:
      return {0x3F00u, 0x807Fu};
    case DType::kBool:
    case DType::kInt32:
      return {0x0u, 0x1u};
  }
  return {0, 0};
}

absl::Status FillRandom(Memory& memory, const Buffer& buffer, DType dtype, std::uint64_t seed,
                        const Interrupt& interrupt) {
  const RandomBits bits = RandomBitsOf(dtype);
  const std::size_t item_bytes = ItemSizeBytes(dtype);
  std::mt19937_64 random(seed);
  std::vector<char> chunk(kFillChunkElements * item_bytes);
  auto* destination = static_cast<char*>(buffer.data());
  for (std::size_t done = 0; done < buffer.size_bytes(); done += chunk.size()) {
    if (absl::Status go_on = interrupt.Check(); !go_on.ok()) return go_on;
    for (std::size_t at = 0; at < chunk.size(); at += item_bytes) {
      const std::uint64_t value = bits.half | (random() & bits.mask);
      std::memcpy(chunk.data() + at, &value, item_bytes);  // little-endian: the low bytes
    }
    const std::size_t size_bytes = std::min(chunk.size(), buffer.size_bytes() - done);
    absl::Status copied = memory.CopyFromHost(destination + done, chunk.data(), size_bytes);
    if (!copied.ok()) return copied;
  }
  return absl::OkStatus();
}

struct Extents {
  std::int64_t batch, heads_q, heads_kv, seq_q, seq_kv, head_dim, head_dim_v;
};

absl::StatusOr<Extents> DecodeExtents(const v1::RunBenchmarkRequest& request) {
  const auto or_default = [](std::int64_t value, std::int64_t otherwise) {
    return value == 0 ? otherwise : value;
  };
  const Extents extents = {request.batch(),
                           request.heads_q(),
                           or_default(request.heads_kv(), request.heads_q()),
                           request.seq_q(),
                           or_default(request.seq_kv(), request.seq_q()),
                           request.head_dim(),
                           or_default(request.head_dim_v(), request.head_dim())};
  const std::pair<std::string_view, std::int64_t> fields[] = {
      {"batch", extents.batch},          {"heads_q", extents.heads_q},   {"seq_q", extents.seq_q},
      {"head_dim", extents.head_dim},    {"heads_kv", extents.heads_kv}, {"seq_kv", extents.seq_kv},
      {"head_dim_v", extents.head_dim_v}};
  for (const auto& [name, value] : fields) {
    if (value < 1) return InvalidField(name, Message("is ", value, ", must be at least 1"));
  }
  return extents;
}

// Views of the operation's inputs, without data.
absl::Status MakeInputs(Operation operation, DType dtype, const Extents& extents,
                        std::size_t max_tensor_bytes, AttentionInputs& inputs) {
  const std::array<std::int64_t, 4> q = {extents.batch, extents.heads_q, extents.seq_q,
                                         extents.head_dim};
  const std::array<std::int64_t, 4> k = {extents.batch, extents.heads_kv, extents.seq_kv,
                                         extents.head_dim};
  const std::array<std::int64_t, 4> v = {extents.batch, extents.heads_kv, extents.seq_kv,
                                         extents.head_dim_v};
  const std::array<std::int64_t, 4> o = {extents.batch, extents.heads_q, extents.seq_q,
                                         extents.head_dim_v};
  for (const auto& [name, shape] :
       {std::pair{"q", q}, std::pair{"k", k}, std::pair{"v", v}, std::pair{"o", o}}) {
    absl::Status fits =
        CheckShape(shape, dtype, kMaxRank, max_tensor_bytes, Message(name, ".shape"));
    if (!fits.ok()) return fits;
  }
  const auto view = [dtype](const std::array<std::int64_t, 4>& s) {
    return RowMajorView<const void>(nullptr, dtype, {s[0], s[1], s[2], s[3]});
  };
  const bool has_tangents = operation == Operation::kJvp || operation == Operation::kHvp;
  const bool has_cotangent = operation == Operation::kVjp || operation == Operation::kHvp;
  inputs.q = view(q);
  inputs.k = view(k);
  inputs.v = view(v);
  if (has_cotangent) inputs.o_bar = view(o);
  if (has_tangents) {
    inputs.q_dot = view(q);
    inputs.k_dot = view(k);
    inputs.v_dot = view(v);
  }
  return absl::OkStatus();
}

// What a benchmark computes of an operation: all but the results of lower order.
bool IsMeasured(Operation operation, std::string_view output) {
  if (!HasOutput(operation, output) || IsOfBias(output)) return false;
  switch (operation) {
    case Operation::kForward:
      return true;
    case Operation::kVjp:
      return output.ends_with("_bar");
    case Operation::kJvp:
      return output == "o" || output == "o_dot";
    case Operation::kHvp:
      return output.ends_with("_bar") || output.ends_with("_bar_dot");
  }
  return false;
}

std::size_t TotalBytes(const AttentionProblem& problem, const AttentionInputs& inputs) {
  std::size_t bytes = 0;
  for (const InputField& field : kInputFields) {
    if (const auto& view = inputs.*field.member; view.has_value()) bytes += view->SizeBytes();
  }
  for (const OutputField& field : kOutputFields) {
    if (IsMeasured(problem.operation, field.name)) {
      bytes += OutputLayout(problem, field.name).SizeBytes();
    }
  }
  return bytes;
}

std::string ShapeLabel(const Extents& extents) {
  return Message("b", extents.batch, "_h", extents.heads_q, "-", extents.heads_kv, "_s",
                 extents.seq_q, "-", extents.seq_kv, "_d", extents.head_dim, "-",
                 extents.head_dim_v);
}

absl::Duration Median(std::vector<absl::Duration> times) {
  std::sort(times.begin(), times.end());
  const std::size_t middle = times.size() / 2;
  return times.size() % 2 == 1 ? times[middle] : (times[middle - 1] + times[middle]) / 2;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BenchmarkTask>> DecodeBenchmark(
    const v1::RunBenchmarkRequest& request, TensorStore& store, const TenantId& tenant,
    const BenchmarkLimits& limits, SharedRegions* regions) {
  auto task = std::make_unique<BenchmarkTask>(
      TensorDecoder(store, tenant, limits.max_tensor_bytes, regions));
  const absl::StatusOr<Operation> operation = DecodeOperation(request.operation(), "operation");
  if (!operation.ok()) return operation.status();
  const absl::StatusOr<DType> dtype = DecodeDType(request.dtype(), "dtype");
  if (!dtype.ok()) return dtype.status();
  const absl::StatusOr<Extents> extents = DecodeExtents(request);
  if (!extents.ok()) return extents.status();
  task->repetitions = request.repetitions() == 0
                          ? std::min(kDefaultRepetitions, limits.max_repetitions)
                          : request.repetitions();
  if (task->repetitions > limits.max_repetitions) {
    return InvalidField("repetitions", Message("is ", request.repetitions(), ", must be at most ",
                                               limits.max_repetitions));
  }
  if (request.preset().size() > kMaxPresetBytes) {
    return InvalidField("preset", Message("has ", request.preset().size(),
                                          " bytes, must have at most ", kMaxPresetBytes));
  }
  task->shape = request.preset().empty() ? ShapeLabel(*extents) : request.preset();
  absl::Status inputs =
      MakeInputs(*operation, *dtype, *extents, limits.max_tensor_bytes, task->inputs);
  if (!inputs.ok()) return inputs;
  absl::StatusOr<AttentionOptions> options = DecodeOptions(request.options(), task->decoder);
  if (!options.ok()) return options.status();
  if (absl::Status present = task->decoder.status(); !present.ok()) return present;
  task->inputs.options = *std::move(options);
  absl::StatusOr<AttentionProblem> problem = Validate(*operation, task->inputs);
  if (!problem.ok()) return problem.status();
  task->problem = *problem;
  task->bytes = TotalBytes(task->problem, task->inputs);
  if (task->bytes > limits.max_request_bytes) {
    return InvalidField("batch", Message("makes a problem of ", task->bytes,
                                         " bytes, must be at most ", limits.max_request_bytes));
  }
  return task;
}

BenchmarkCall::BenchmarkCall(Backend& backend, TensorStore& store, ComputeMetrics& metrics,
                             Executor& executor, RequestContext& context,
                             std::unique_ptr<BenchmarkTask> task,
                             v1::RunBenchmarkResponse& response, absl::Duration max_call_time)
    : UnaryJob(executor, context,
               {task->bytes,
                AttentionFlops(task->problem, task->inputs.options) * (1.0 + task->repetitions)},
               max_call_time),
      backend_(backend),
      store_(store),
      metrics_(metrics),
      task_(std::move(task)),
      response_(response) {}

absl::Status BenchmarkCall::Answer() {
  AttentionOutputs outputs;
  if (absl::Status allocated = Allocate(outputs); !allocated.ok()) return allocated;
  DeviceStaging options(store_, TenantId{});
  for (const OptionTensor& tensor : kOptionTensors) {
    std::optional<TensorView>& view = task_->inputs.options.*tensor.member;
    if (view.has_value() && !backend_.memory().host_accessible() &&
        !task_->decoder.IsOnDevice(*view)) {
      options.AddInput(*view);
    }
  }
  if (absl::Status uploaded = options.Upload(); !uploaded.ok()) return uploaded;
  ComputeReport report;
  std::vector<absl::Duration> times;
  for (std::uint32_t run = 0; run <= task_->repetitions; ++run) {
    absl::StatusOr<ComputeReport> result = WithRelief(store_, TenantId{}, task_->bytes, [&] {
      return backend_.Run(task_->problem, task_->inputs, outputs, interrupt());
    });
    if (!result.ok()) return result.status();
    report = *std::move(result);
    const bool is_warm_up = run == 0;
    if (!is_warm_up) times.push_back(report.compute_time);
  }
  for (const absl::Duration time : times) response_.add_seconds(absl::ToDoubleSeconds(time));
  Publish(report, Median(std::move(times)));
  return absl::OkStatus();
}

absl::StatusOr<Buffer> BenchmarkCall::AllocateOne(std::size_t size_bytes) {
  return WithRelief(store_, TenantId{}, size_bytes,
                    [&] { return backend_.memory().Allocate(size_bytes); });
}

absl::Status BenchmarkCall::Allocate(AttentionOutputs& outputs) {
  for (const InputField& field : kInputFields) {
    std::optional<TensorView>& view = task_->inputs.*field.member;
    if (!view.has_value()) continue;
    absl::StatusOr<Buffer> buffer = AllocateOne(view->SizeBytes());
    if (!buffer.ok()) return buffer.status();
    absl::Status filled =
        FillRandom(backend_.memory(), *buffer, view->dtype, /*seed=*/buffers_.size(), interrupt());
    if (!filled.ok()) return filled;
    view->data = buffer->data();
    buffers_.push_back(*std::move(buffer));
  }
  for (const OutputField& field : kOutputFields) {
    if (!IsMeasured(task_->problem.operation, field.name)) continue;
    MutableTensorView view = OutputLayout(task_->problem, field.name);
    absl::StatusOr<Buffer> buffer = AllocateOne(view.SizeBytes());
    if (!buffer.ok()) return buffer.status();
    view.data = buffer->data();
    outputs.*field.member = view;
    buffers_.push_back(*std::move(buffer));
  }
  return absl::OkStatus();
}

void BenchmarkCall::Publish(const ComputeReport& report, absl::Duration median) {
  const double seconds = absl::ToDoubleSeconds(median);
  const double flops = AttentionFlops(task_->problem, task_->inputs.options);
  response_.set_median_seconds(seconds);
  response_.set_flops(flops);
  response_.set_flops_per_second(seconds > 0 ? flops / seconds : 0);
  response_.set_bytes(task_->bytes);
  RecordExecution(report, context(), *response_.mutable_execution());
  metrics_.PublishBenchmark({task_->problem.operation, task_->problem.dtype, report.implementation,
                             task_->shape, median, response_.flops_per_second(), task_->bytes});
}

}  // namespace theria::server
