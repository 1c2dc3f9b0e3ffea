#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/api/attention.h"
#include "kernels/api/backend.h"
#include "kernels/cuda/backend.h"

// Runs the fused and the unfused implementation on small problems, every operation, dtype and
// option, and compares them. Needs nothing but a GPU, so that it is what compute-sanitizer runs:
//   compute-sanitizer --tool racecheck theria_cuda_smoke [OPERATION [DTYPE [PART PARTS]]]
// PART, from 0 on, is one of the PARTS that the cases are dealt to in turn.

namespace theria {
namespace {

struct Shape {
  std::int64_t batch, heads_q, heads_kv, seq_q, seq_kv, head_dim, head_dim_v;
};

struct Case {
  Operation operation;
  DType dtype;
  Precision precision;
  Shape shape;
  const char* option;
};

// What float16 and bfloat16 round to, on the host.
std::uint16_t ToHalf(float x) {
  const auto half = static_cast<_Float16>(x);
  std::uint16_t bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}
float FromHalf(std::uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, 2);
  return static_cast<float>(half);
}
std::uint16_t ToBFloat16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
float FromBFloat16(std::uint16_t x) {
  const std::uint32_t bits = std::uint32_t{x} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

class Runner {
 public:
  explicit Runner(Backend* backend) : backend_(backend), memory_(backend->memory()) {}

  // The largest error relative to the largest value of an output, over all outputs; negative on
  // error.
  double Difference(const Case& test) {
    const AttentionInputs inputs = MakeInputs(test);
    const absl::StatusOr<AttentionProblem> problem = Validate(test.operation, inputs);
    if (!problem.ok()) return Fail(problem.status());
    double worst = 0.0;
    std::vector<std::vector<double>> results[2];
    for (const auto implementation : {Implementation::kFused, Implementation::kUnfused}) {
      AttentionInputs given = inputs;
      given.options.implementation = implementation;
      const absl::Status status =
          Run(*problem, given, &results[implementation == Implementation::kUnfused]);
      if (!status.ok()) return Fail(status);
    }
    for (std::size_t output = 0; output < results[0].size(); ++output) {
      double largest = 1.0;
      double error = 0.0;
      for (std::size_t at = 0; at < results[0][output].size(); ++at) {
        const double fused = results[0][output][at];
        const double unfused = results[1][output][at];
        if (fused == unfused || (std::isnan(fused) && std::isnan(unfused))) continue;
        largest = std::max(largest, std::abs(unfused));
        error = std::max(error, std::isfinite(fused) ? std::abs(fused - unfused) : 1e30);
      }
      worst = std::max(worst, error / largest);
    }
    buffers_.clear();
    return worst;
  }

 private:
  static double Fail(const absl::Status& status) {
    std::printf("%s\n", status.ToString().c_str());
    return -1.0;
  }

  void* Upload(const std::vector<std::uint8_t>& bytes) {
    absl::StatusOr<Buffer> buffer = memory_.Allocate(bytes.size());
    if (!buffer.ok() || !memory_.CopyFromHost(buffer->data(), bytes.data(), bytes.size()).ok()) {
      std::printf("cannot upload\n");
      std::exit(1);
    }
    buffers_.push_back(*std::move(buffer));
    return buffers_.back().data();
  }

  TensorView Random(DType dtype, std::initializer_list<std::int64_t> shape) {
    TensorView view = RowMajorView<const void>(nullptr, dtype, shape);
    std::vector<std::uint8_t> bytes(view.SizeBytes());
    std::normal_distribution<float> normal;
    for (std::int64_t at = 0; at < view.NumElements(); ++at) {
      const float x = normal(random_);
      const double wide = x;
      const std::uint16_t half = dtype == DType::kFloat16 ? ToHalf(x) : ToBFloat16(x);
      const std::uint8_t flag = x > -0.5f;
      const void* source = &half;
      if (dtype == DType::kFloat64) source = &wide;
      if (dtype == DType::kFloat32) source = &x;
      if (dtype == DType::kBool) source = &flag;
      const std::size_t size = ItemSizeBytes(dtype);
      std::memcpy(&bytes[static_cast<std::size_t>(at) * size], source, size);
    }
    view.data = Upload(bytes);
    return view;
  }

  AttentionInputs MakeInputs(const Case& test) {
    const Shape& n = test.shape;
    AttentionInputs inputs;
    const auto q = [&] { return Random(test.dtype, {n.batch, n.heads_q, n.seq_q, n.head_dim}); };
    const auto k = [&] { return Random(test.dtype, {n.batch, n.heads_kv, n.seq_kv, n.head_dim}); };
    const auto v = [&] {
      return Random(test.dtype, {n.batch, n.heads_kv, n.seq_kv, n.head_dim_v});
    };
    const auto o = [&] { return Random(test.dtype, {n.batch, n.heads_q, n.seq_q, n.head_dim_v}); };
    inputs.q = q(), inputs.k = k(), inputs.v = v();
    if (test.operation == Operation::kJvp || test.operation == Operation::kHvp) {
      inputs.q_dot = q(), inputs.k_dot = k(), inputs.v_dot = v();
    }
    if (test.operation == Operation::kVjp || test.operation == Operation::kHvp) inputs.o_bar = o();
    if (test.operation == Operation::kHvp) inputs.o_bar_dot = o();
    const std::string option = test.option;
    AttentionOptions& options = inputs.options;
    options.precision = test.precision;
    options.is_causal = option == "causal";
    if (option == "window") options.window = Window{9, 4};
    if (option == "mask") options.mask = Random(DType::kBool, {n.batch, 1, n.seq_q, n.seq_kv});
    if (option == "dropout") options.dropout = {0.25, 5, 6};
    if (option == "softcap") options.softcap = 1.5;
    if (option == "alibi") {
      options.is_causal = true;
      options.causal_alignment = CausalAlignment::kLowerRight;
      options.alibi_slopes = n.heads_q == 1 ? Vector(DType::kFloat32, {0.25f})
                                            : Vector(DType::kFloat32, {0.25f, 0.0625f});
    }
    if (option == "key lengths") {
      options.kv_lengths = Vector(DType::kInt32, {static_cast<std::int32_t>(n.seq_kv * 2 / 3)});
    }
    if (option == "documents") {
      const auto third = [](std::int64_t rows) { return static_cast<std::int32_t>(rows / 3); };
      options.is_causal = true;
      options.cu_seqlens_q =
          Vector(DType::kInt32, {0, third(n.seq_q), static_cast<std::int32_t>(n.seq_q)});
      options.cu_seqlens_kv =
          Vector(DType::kInt32, {0, third(n.seq_kv), static_cast<std::int32_t>(n.seq_kv)});
    }
    if (option == "bias") {
      options.mask = Random(DType::kFloat32, {n.heads_q, n.seq_q, n.seq_kv});
      AddOfBiasAndLse(test, &inputs);
    }
    if (option == "q_dot only") {
      inputs.k_dot.reset(), inputs.v_dot.reset(), inputs.o_bar_dot.reset();
    }
    if (option == "no o_bar_dot") inputs.o_bar_dot.reset();
    if (option == "NaN row") {  // takes part: rows of NaN are computed again by other kernels
      options.is_causal = true;
      SpoilLastRow(*inputs.q);
    }
    return inputs;
  }

  // `dtype` is that of T.
  template <typename T>
  TensorView Vector(DType dtype, std::initializer_list<T> values) {
    TensorView view =
        RowMajorView<const void>(nullptr, dtype, {static_cast<std::int64_t>(values.size())});
    std::vector<std::uint8_t> bytes(view.SizeBytes());
    std::memcpy(bytes.data(), values.begin(), bytes.size());
    view.data = Upload(bytes);
    return view;
  }

  // The tangent of the bias and the cotangents of lse that the operation reads.
  void AddOfBiasAndLse(const Case& test, AttentionInputs* inputs) {
    const Shape& n = test.shape;
    const auto lse = [&] {
      return Random(StatisticsDType(test.dtype), {n.batch, n.heads_q, n.seq_q});
    };
    if (HasInput(test.operation, "lse_bar")) inputs->lse_bar = lse();
    if (HasInput(test.operation, "lse_bar_dot")) inputs->lse_bar_dot = lse();
    if (HasInput(test.operation, "bias_dot")) {
      inputs->bias_dot = Random(DType::kFloat32, {n.heads_q, n.seq_q, n.seq_kv});
    }
  }

  // Makes the last row of a row-major tensor NaN: all bits set, in every floating-point dtype.
  void SpoilLastRow(const TensorView& view) {
    const std::size_t row_bytes =
        static_cast<std::size_t>(view.shape[view.rank - 1]) * ItemSizeBytes(view.dtype);
    const std::vector<std::uint8_t> nan(row_bytes, 0xFF);
    void* row =
        static_cast<std::uint8_t*>(const_cast<void*>(view.data)) + view.SizeBytes() - row_bytes;
    if (!memory_.CopyFromHost(row, nan.data(), nan.size()).ok()) {
      std::printf("cannot upload\n");
      std::exit(1);
    }
  }

  absl::Status Run(const AttentionProblem& problem, const AttentionInputs& inputs,
                   std::vector<std::vector<double>>* results) {
    AttentionOutputs outputs;
    std::vector<MutableTensorView> views;
    for (const OutputField& field : kOutputFields) {
      if (!HasOutput(problem, field.name)) continue;
      MutableTensorView view = OutputLayout(problem, field.name);
      view.data = Upload(std::vector<std::uint8_t>(view.SizeBytes(), 0xFF));
      outputs.*field.member = view;
      views.push_back(view);
    }
    const absl::StatusOr<ComputeReport> report =
        backend_->Run(problem, inputs, outputs, NoInterrupt());
    if (!report.ok()) return report.status();
    for (const MutableTensorView& view : views) {
      std::vector<std::uint8_t> bytes(view.SizeBytes());
      const absl::Status status = memory_.CopyToHost(bytes.data(), view.data, bytes.size());
      if (!status.ok()) return status;
      std::vector<double> values;
      for (std::int64_t at = 0; at < view.NumElements(); ++at) {
        values.push_back(
            Value(view.dtype, &bytes[static_cast<std::size_t>(at) * ItemSizeBytes(view.dtype)]));
      }
      results->push_back(std::move(values));
    }
    return absl::OkStatus();
  }

  static double Value(DType dtype, const std::uint8_t* bytes) {
    double wide;
    float single;
    std::uint16_t half;
    std::memcpy(&half, bytes, 2);
    switch (dtype) {
      case DType::kFloat64:
        std::memcpy(&wide, bytes, 8);
        return wide;
      case DType::kFloat32:
        std::memcpy(&single, bytes, 4);
        return single;
      case DType::kFloat16:
        return FromHalf(half);
      default:
        return FromBFloat16(half);
    }
  }

  Backend* backend_;
  Memory& memory_;
  std::vector<Buffer> buffers_;
  std::mt19937 random_{7};
};

// The names of the operation and the dtype to run, all if empty; of those, part `part` of `parts`.
int Main(const std::string& only, const std::string& only_dtype, int part, int parts) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = MakeCudaBackend();
  if (!backend.ok()) {
    std::printf("%s\n", backend.status().ToString().c_str());
    return 1;
  }
  struct Kind {
    DType dtype;
    Precision precision;
    double tolerance;
  };
  // Two roundings of different order apart: a few units in the last place of the operands.
  constexpr Kind kKinds[] = {{DType::kFloat16, Precision::kStrict, 0.01},
                             {DType::kBFloat16, Precision::kStrict, 0.06},
                             {DType::kFloat32, Precision::kStrict, 2e-5},
                             {DType::kFloat32, Precision::kFast, 0.02},
                             {DType::kFloat64, Precision::kStrict, 1e-12}};
  // The last but one goes around every ring of buffers more than once. The last is long enough for
  // the VJP in one pass, which exists in half precision.
  constexpr Shape kShapes[] = {{1, 2, 1, 70, 45, 64, 64},   {1, 1, 1, 33, 90, 128, 120},
                               {1, 1, 1, 20, 37, 13, 7},    {1, 1, 1, 40, 35, 200, 256},
                               {1, 2, 1, 260, 330, 64, 64}, {1, 1, 1, 530, 600, 64, 64}};
  int dealt = 0;
  int cases = 0;
  int failures = 0;
  for (const auto operation :
       {Operation::kForward, Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
    if (!only.empty() && OperationName(operation) != only) continue;
    for (const Kind& kind : kKinds) {
      if (!only_dtype.empty() && DTypeName(kind.dtype) != only_dtype) continue;
      for (const Shape& shape : kShapes) {
        const bool half = ItemSizeBytes(kind.dtype) == 2;
        if (shape.seq_q > 512 && !(operation == Operation::kVjp && half)) continue;
        for (const char* option :
             {"plain", "causal", "window", "mask", "dropout", "q_dot only", "no o_bar_dot",
              "NaN row", "softcap", "alibi", "key lengths", "documents", "bias"}) {
          if (dealt++ % parts != part) continue;
          Runner runner(backend->get());
          const double difference =
              runner.Difference({operation, kind.dtype, kind.precision, shape, option});
          ++cases;
          if (difference >= 0.0 && difference <= kind.tolerance) continue;
          ++failures;
          std::printf("FAILED %s %s %s head_dim %d: difference %g\n",
                      std::string(OperationName(operation)).c_str(),
                      std::string(DTypeName(kind.dtype)).c_str(), option,
                      static_cast<int>(shape.head_dim), difference);
        }
      }
    }
  }
  std::printf("%d cases, %d failed\n", cases, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace theria

int main(int argc, char** argv) {
  const int part = argc > 4 ? std::atoi(argv[3]) : 0;
  const int parts = argc > 4 ? std::atoi(argv[4]) : 1;
  if (argc == 4 || argc > 5 || part < 0 || part >= parts) {
    std::fprintf(stderr, "usage: theria_cuda_smoke [OPERATION [DTYPE [PART PARTS]]]\n");
    return 2;
  }
  return theria::Main(argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "", part, parts);
}
