#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/api/philox.h"
#include "kernels/cuda/attention/launch.h"
#include "kernels/cuda/attention/sm90a/instantiate.cuh"
#include "kernels/cuda/attention/statistics.cuh"

// Checks and times the bfloat16 VJP kernels of generation sm90a by themselves: a quick build, and a
// kernel that hangs says where. Built without Abseil's libraries:
//   nvcc -std=c++20 -O3 -I. --expt-relaxed-constexpr -gencode arch=compute_90a,code=sm_90a
//     -DTHERIA_BARRIER_WATCHDOG tests/cuda/vjp_smoke.cu kernels/cuda/attention/launch.cc
//     kernels/cuda/attention/sm90a/tensor_maps.cc -o theria_vjp_smoke
//   theria_vjp_smoke check [TEXT]    against plain float32 kernels; variants whose name has TEXT
//   theria_vjp_smoke time [TEXT]

namespace theria::cuda {
namespace {

#define SMOKE_CHECK(call)                                         \
  do {                                                            \
    const cudaError_t error_ = (call);                            \
    if (error_ != cudaSuccess) {                                  \
      std::printf("%s: %s\n", #call, cudaGetErrorString(error_)); \
      std::exit(1);                                               \
    }                                                             \
  } while (false)

struct Shape {
  int batch, heads_q, heads_kv, seq_q, seq_kv, dim;
  bool causal;
  int window_left = -1;  // negative: unbounded
};

struct Variants : KernelTable {
  void Add(const CompiledKernel& kernel) override {
    list.push_back({kernel, "",
                    std::string(kernel.key.kind == KernelKind::kForward      ? "forward"
                                : kernel.key.kind == KernelKind::kVjpQueries ? "vjp_queries"
                                : kernel.key.kind == KernelKind::kVjpKeys    ? "vjp_keys"
                                                                             : "vjp") +
                        "_d" + std::to_string(kernel.key.dim) + "_" + std::to_string(kernel.rows) +
                        "x" + std::to_string(kernel.columns) + "x" +
                        std::to_string(kernel.stages)});
  }
  const KernelVariant& Find(KernelKind kind, int dim) const {
    for (const KernelVariant& variant : list) {
      if (variant.key.kind == kind && variant.key.dim == dim) return variant;
    }
    std::printf("a kernel is missing\n");
    std::exit(1);
  }
  std::vector<KernelVariant> list;
};

// Sums of four uniform numbers, of variance 1.
__global__ void Fill(__nv_bfloat16* data, std::int64_t count, std::uint32_t seed) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= count) return;
  const PhiloxCounter bits = Philox4x32({static_cast<std::uint32_t>(index), 0, 0, 0}, {seed, 1});
  const float sum = (static_cast<float>(bits.x) + static_cast<float>(bits.y) +
                     static_cast<float>(bits.z) + static_cast<float>(bits.w)) /
                    4294967296.0f;
  data[index] = __float2bfloat16((sum - 2.0f) * 1.7320508f);
}

// The reference: float32 throughout, a matrix [batch, heads_q, seq_q, seq_kv] of P and one of
// S_bar.
struct Reference {
  Shape n;
  float scale;
  const __nv_bfloat16 *q, *k, *v, *o_bar;
  float *p, *s_bar, *q_bar, *k_bar, *v_bar;
};

// A block of 256 threads for a row of scores.
__global__ void ReferenceRows(Reference r) {
  __shared__ float shared[256];
  __shared__ float o[256];
  const auto reduce = [&](float x, bool maximum) {
    shared[threadIdx.x] = x;
    for (int half = 128; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) {
        const float y = shared[threadIdx.x + half];
        shared[threadIdx.x] = maximum ? fmaxf(shared[threadIdx.x], y) : shared[threadIdx.x] + y;
      }
    }
    __syncthreads();
    const float result = shared[0];
    __syncthreads();
    return result;
  };
  const int i = blockIdx.x % r.n.seq_q;
  const int plane = blockIdx.x / r.n.seq_q;
  const int batch = plane / r.n.heads_q;
  const int head_kv = plane % r.n.heads_q / (r.n.heads_q / r.n.heads_kv);
  const std::int64_t row = std::int64_t{plane} * r.n.seq_q + i;
  const std::int64_t keys = (std::int64_t{batch} * r.n.heads_kv + head_kv) * r.n.seq_kv;
  float* p = r.p + row * r.n.seq_kv;
  float* s_bar = r.s_bar + row * r.n.seq_kv;
  const auto dot = [&](const __nv_bfloat16* a, const __nv_bfloat16* b) {
    float sum = 0.0f;
    for (int d = 0; d < r.n.dim; ++d) sum += __bfloat162float(a[d]) * __bfloat162float(b[d]);
    return sum;
  };
  const auto takes_part = [&](int j) {
    return !(r.n.causal && j > i) && !(r.n.window_left >= 0 && j < i - r.n.window_left);
  };
  float maximum = -INFINITY;
  for (int j = threadIdx.x; j < r.n.seq_kv; j += 256) {
    p[j] =
        takes_part(j) ? r.scale * dot(r.q + row * r.n.dim, r.k + (keys + j) * r.n.dim) : -INFINITY;
    maximum = fmaxf(maximum, p[j]);
  }
  maximum = reduce(maximum, true);
  float sum = 0.0f;
  for (int j = threadIdx.x; j < r.n.seq_kv; j += 256) {
    p[j] = maximum == -INFINITY ? 0.0f : expf(p[j] - maximum);
    sum += p[j];
  }
  sum = reduce(sum, false);
  for (int j = threadIdx.x; j < r.n.seq_kv; j += 256) p[j] = sum > 0.0f ? p[j] / sum : 0.0f;
  __syncthreads();
  const int d = threadIdx.x;
  o[d] = 0.0f;
  if (d < r.n.dim) {
    for (int j = 0; j < r.n.seq_kv; ++j) {
      o[d] += p[j] * __bfloat162float(r.v[(keys + j) * r.n.dim + d]);
    }
  }
  const float delta =
      reduce(d < r.n.dim ? o[d] * __bfloat162float(r.o_bar[row * r.n.dim + d]) : 0.0f, false);
  for (int j = threadIdx.x; j < r.n.seq_kv; j += 256) {
    s_bar[j] = p[j] * (dot(r.o_bar + row * r.n.dim, r.v + (keys + j) * r.n.dim) - delta);
  }
  __syncthreads();
  if (d < r.n.dim) {
    float q_bar = 0.0f;
    for (int j = 0; j < r.n.seq_kv; ++j) {
      q_bar += s_bar[j] * __bfloat162float(r.k[(keys + j) * r.n.dim + d]);
    }
    r.q_bar[row * r.n.dim + d] = r.scale * q_bar;
  }
}

// A block of 256 threads for a key.
__global__ void ReferenceKeys(Reference r) {
  const int j = blockIdx.x % r.n.seq_kv;
  const int plane = blockIdx.x / r.n.seq_kv;
  const int batch = plane / r.n.heads_kv;
  const int group = r.n.heads_q / r.n.heads_kv;
  const int d = threadIdx.x;
  if (d >= r.n.dim) return;
  float k_bar = 0.0f, v_bar = 0.0f;
  for (int of_group = 0; of_group < group; ++of_group) {
    const int head = plane % r.n.heads_kv * group + of_group;
    for (int i = 0; i < r.n.seq_q; ++i) {
      const std::int64_t row = (std::int64_t{batch} * r.n.heads_q + head) * r.n.seq_q + i;
      k_bar += r.s_bar[row * r.n.seq_kv + j] * __bfloat162float(r.q[row * r.n.dim + d]);
      v_bar += r.p[row * r.n.seq_kv + j] * __bfloat162float(r.o_bar[row * r.n.dim + d]);
    }
  }
  const std::int64_t key = std::int64_t{plane} * r.n.seq_kv + j;
  r.k_bar[key * r.n.dim + d] = r.scale * k_bar;
  r.v_bar[key * r.n.dim + d] = v_bar;
}

class Problem {
 public:
  Problem(const Variants& variants, const Shape& n) : variants_(variants), n_(n) {
    params_.batch = n.batch;
    params_.heads_q = n.heads_q;
    params_.heads_kv = n.heads_kv;
    params_.group = n.heads_q / n.heads_kv;
    params_.seq_q = n.seq_q;
    params_.seq_kv = n.seq_kv;
    params_.head_dim = params_.head_dim_v = n.dim;
    params_.scale = 1.0 / std::sqrt(static_cast<double>(n.dim));
    if (n.causal) params_.score_mod.window_right = 0;
    if (n.window_left >= 0) params_.score_mod.window_left = n.window_left;
    queries_ = std::int64_t{n.batch} * n.heads_q * n.seq_q * n.dim;
    keys_ = std::int64_t{n.batch} * n.heads_kv * n.seq_kv * n.dim;
    params_.q = Input(queries_, n.heads_q, n.seq_q);
    params_.k = Input(keys_, n.heads_kv, n.seq_kv);
    params_.v = Input(keys_, n.heads_kv, n.seq_kv);
    params_.o_bar = Input(queries_, n.heads_q, n.seq_q);
    params_.o = Input(queries_, n.heads_q, n.seq_q);
    params_.o_out = {const_cast<void*>(params_.o.data), params_.o.batch_stride,
                     params_.o.head_stride, params_.o.row_stride};
    params_.q_bar = Output(queries_, n.heads_q, n.seq_q);
    params_.k_bar = Output(keys_, n.heads_kv, n.seq_kv);
    params_.v_bar = Output(keys_, n.heads_kv, n.seq_kv);
    const std::int64_t rows = std::int64_t{n.batch} * n.heads_q * StatisticsRows(n.seq_q);
    params_.row_sums = Allocate(rows * 8);
    params_.statistics = Allocate(rows * 16);
    params_.inverse_sums = Allocate(rows * 4);
    params_.unfolded = static_cast<std::uint8_t*>(Allocate(rows / kStatisticsRowsPerBlock));
    q_bar_sum_ = static_cast<float*>(Allocate(rows * 128 * 4));
    SMOKE_CHECK(LaunchKernel(variants_.Find(KernelKind::kForward, n.dim), params_, nullptr));
    SMOKE_CHECK(cudaDeviceSynchronize());
  }
  ~Problem() {
    for (void* buffer : buffers_) cudaFree(buffer);
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  // With the statistics pass, as a call has it. `variant`: null for the two kernels.
  void Run(const KernelVariant* variant) {
    params_.q_bar_sum = variant != nullptr ? q_bar_sum_ : nullptr;
    params_.q_bar_sum_columns = variant != nullptr ? variant->q_bar_sum_columns : 0;
    SMOKE_CHECK(LaunchStatistics(Arithmetic::kBFloat16, params_, nullptr));
    RunKernels(variant);
  }

  void RunKernels(const KernelVariant* variant) {
    if (variant != nullptr) {
      SMOKE_CHECK(LaunchKernel(*variant, params_, nullptr));
      return;
    }
    SMOKE_CHECK(LaunchKernel(variants_.Find(KernelKind::kVjpQueries, n_.dim), params_, nullptr));
    SMOKE_CHECK(LaunchKernel(variants_.Find(KernelKind::kVjpKeys, n_.dim), params_, nullptr));
  }

  void ComputeReference() {
    Reference r = {};
    r.n = n_;
    r.scale = static_cast<float>(params_.scale);
    r.q = static_cast<const __nv_bfloat16*>(params_.q.data);
    r.k = static_cast<const __nv_bfloat16*>(params_.k.data);
    r.v = static_cast<const __nv_bfloat16*>(params_.v.data);
    r.o_bar = static_cast<const __nv_bfloat16*>(params_.o_bar.data);
    const std::int64_t scores = queries_ / n_.dim * n_.seq_kv;
    r.p = static_cast<float*>(Allocate(scores * 4));
    r.s_bar = static_cast<float*>(Allocate(scores * 4));
    r.q_bar = static_cast<float*>(Allocate(queries_ * 4));
    r.k_bar = static_cast<float*>(Allocate(keys_ * 4));
    r.v_bar = static_cast<float*>(Allocate(keys_ * 4));
    ReferenceRows<<<static_cast<unsigned>(queries_ / n_.dim), 256>>>(r);
    ReferenceKeys<<<static_cast<unsigned>(keys_ / n_.dim), 256>>>(r);
    SMOKE_CHECK(cudaDeviceSynchronize());
    reference_[0] = Download<float>(r.q_bar, queries_);
    reference_[1] = Download<float>(r.k_bar, keys_);
    reference_[2] = Download<float>(r.v_bar, keys_);
  }

  // Root-mean-square errors of q_bar, k_bar, v_bar over the references' root mean squares, and the
  // largest error over the largest value. Infinite where something is not finite.
  void Errors(const KernelVariant* variant, double (&rms)[3], double (&largest)[3]) {
    const OutputRows outputs[] = {params_.q_bar, params_.k_bar, params_.v_bar};
    const std::int64_t counts[] = {queries_, keys_, keys_};
    for (int i = 0; i < 3; ++i) {
      SMOKE_CHECK(cudaMemset(outputs[i].data, 0xFF, static_cast<std::size_t>(counts[i]) * 2));
    }
    SMOKE_CHECK(cudaMemset(q_bar_sum_, 0xFF, 16));
    Run(variant);
    SMOKE_CHECK(cudaDeviceSynchronize());
    for (int i = 0; i < 3; ++i) {
      const auto bits = Download<std::uint16_t>(outputs[i].data, counts[i]);
      double error = 0.0, square = 0.0, worst = 0.0, most = 0.0;
      for (std::size_t at = 0; at < bits.size(); ++at) {
        const std::uint32_t wide = std::uint32_t{bits[at]} << 16;
        float x;
        std::memcpy(&x, &wide, 4);
        const double difference = std::isfinite(x) ? x - reference_[i][at] : 1e30;
        error += difference * difference;
        square += static_cast<double>(reference_[i][at]) * reference_[i][at];
        worst = std::max(worst, std::abs(difference));
        most = std::max(most, std::abs(static_cast<double>(reference_[i][at])));
      }
      rms[i] = std::sqrt(error / std::max(square, 1e-30));
      largest[i] = worst / std::max(most, 1e-30);
    }
  }

  // Median of 20.
  float Milliseconds(const KernelVariant* variant, bool whole) {
    cudaEvent_t begin, end;
    SMOKE_CHECK(cudaEventCreate(&begin));
    SMOKE_CHECK(cudaEventCreate(&end));
    std::vector<float> times;
    for (int run = 0; run < 23; ++run) {
      SMOKE_CHECK(cudaEventRecord(begin));
      if (whole) {
        Run(variant);
      } else {
        RunKernels(variant);
      }
      SMOKE_CHECK(cudaEventRecord(end));
      SMOKE_CHECK(cudaEventSynchronize(end));
      float milliseconds = 0.0f;
      SMOKE_CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
      if (run >= 3) times.push_back(milliseconds);
    }
    SMOKE_CHECK(cudaEventDestroy(begin));
    SMOKE_CHECK(cudaEventDestroy(end));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

 private:
  void* Allocate(std::int64_t bytes) {
    void* data = nullptr;
    SMOKE_CHECK(cudaMalloc(&data, static_cast<std::size_t>(bytes)));
    buffers_.push_back(data);
    return data;
  }
  InputRows Input(std::int64_t count, int heads, int rows) {
    auto* data = static_cast<__nv_bfloat16*>(Allocate(count * 2));
    Fill<<<static_cast<unsigned>((count + 255) / 256), 256>>>(
        data, count, static_cast<std::uint32_t>(buffers_.size()));
    return {data, std::int64_t{heads} * rows * n_.dim, std::int64_t{rows} * n_.dim, n_.dim};
  }
  OutputRows Output(std::int64_t count, int heads, int rows) {
    return {Allocate(count * 2), std::int64_t{heads} * rows * n_.dim, std::int64_t{rows} * n_.dim,
            n_.dim};
  }
  template <typename T>
  std::vector<T> Download(const void* data, std::int64_t count) {
    std::vector<T> host(static_cast<std::size_t>(count));
    SMOKE_CHECK(cudaMemcpy(host.data(), data, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }

  const Variants& variants_;
  Shape n_;
  std::int64_t queries_ = 0, keys_ = 0;
  AttentionParams params_ = {};
  float* q_bar_sum_ = nullptr;
  std::vector<void*> buffers_;
  std::vector<float> reference_[3];
};

std::string Text(const Shape& n) {
  return std::to_string(n.batch) + "," + std::to_string(n.heads_q) + "/" +
         std::to_string(n.heads_kv) + "," + std::to_string(n.seq_q) + "x" +
         std::to_string(n.seq_kv) + "," + std::to_string(n.dim) + (n.causal ? " causal" : "") +
         (n.window_left >= 0 ? " window" : "");
}

int Check(const Variants& variants, const std::string& match) {
  constexpr double kRmsLimit = 0.01;  // of bfloat16 products; a wrong tile gives 0.1 and more
  int failures = 0;
  for (const int dim : {64, 128}) {
    const Shape shapes[] = {{1, 1, 1, 64, 128, dim, false},     {1, 1, 1, 128, 128, dim, false},
                            {1, 1, 1, 256, 256, dim, false},    {1, 2, 2, 512, 384, dim, false},
                            {1, 2, 2, 256, 256, dim, true},     {2, 3, 3, 197, 197, dim, false},
                            {2, 3, 3, 197, 197, dim, true},     {1, 4, 2, 1000, 1000, dim, false},
                            {1, 4, 1, 1000, 1000, dim, true},   {1, 2, 2, 300, 900, dim, true},
                            {1, 2, 2, 900, 300, dim, true},     {1, 2, 2, 1, 333, dim, false},
                            {1, 2, 1, 700, 700, dim, true, 33}, {2, 4, 4, 2048, 2048, dim, false},
                            {2, 4, 2, 2048, 2048, dim, true}};
    for (const Shape& shape : shapes) {
      Problem problem(variants, shape);
      problem.ComputeReference();
      double rms[3], largest[3];
      problem.Errors(nullptr, rms, largest);
      std::printf("%-32s %-22s rms %.2e %.2e %.2e\n", Text(shape).c_str(), "two kernels", rms[0],
                  rms[1], rms[2]);
      for (const KernelVariant& variant : variants.list) {
        if (variant.key.kind != KernelKind::kVjp || variant.key.dim != dim ||
            variant.name.find(match) == std::string::npos) {
          continue;
        }
        problem.Errors(&variant, rms, largest);
        const bool passed = rms[0] < kRmsLimit && rms[1] < kRmsLimit && rms[2] < kRmsLimit;
        failures += passed ? 0 : 1;
        std::printf("%-32s %-22s rms %.2e %.2e %.2e largest %.2e %.2e %.2e%s\n",
                    Text(shape).c_str(), variant.name.c_str(), rms[0], rms[1], rms[2], largest[0],
                    largest[1], largest[2], passed ? "" : " FAILED");
        std::fflush(stdout);
      }
    }
  }
  std::printf("%d failed\n", failures);
  return failures == 0 ? 0 : 1;
}

int Time(const Variants& variants, const std::string& match) {
  for (const Shape& full :
       {Shape{4, 16, 16, 2048, 2048, 64, false}, Shape{1, 16, 16, 16384, 16384, 64, false},
        Shape{4, 16, 16, 2048, 2048, 128, false}, Shape{4, 16, 16, 4096, 4096, 128, false}}) {
    for (const bool causal : {false, true}) {
      Shape shape = full;
      shape.causal = causal;
      Problem problem(variants, shape);
      const double flop = 10.0 * shape.batch * shape.heads_q * shape.seq_q *
                          static_cast<double>(shape.seq_kv) * shape.dim * (causal ? 0.5 : 1.0);
      const auto print = [&](const char* name, const KernelVariant* variant) {
        const float whole = problem.Milliseconds(variant, true);
        const float kernels = problem.Milliseconds(variant, false);
        std::printf("%-32s %-22s %.4f ms %4.0f TFLOP/s, without statistics %.4f ms %4.0f TFLOP/s\n",
                    Text(shape).c_str(), name, whole, flop / whole * 1e-9, kernels,
                    flop / kernels * 1e-9);
        std::fflush(stdout);
      };
      print("two kernels", nullptr);
      for (const KernelVariant& variant : variants.list) {
        if (variant.key.kind == KernelKind::kVjp && variant.key.dim == shape.dim &&
            variant.name.find(match) != std::string::npos) {
          print(variant.name.c_str(), &variant);
        }
      }
    }
  }
  return 0;
}

int Main(const std::string& what, const std::string& match) {
  Variants variants;
  constexpr Arithmetic kBf16 = Arithmetic::kBFloat16;
  sm90a::AddVariants<kBf16, KernelKind::kForward, 64>(&variants);
  sm90a::AddVariants<kBf16, KernelKind::kForward, 128>(&variants);
  sm90a::AddVariants<kBf16, KernelKind::kVjpQueries, 64>(&variants);
  sm90a::AddVariants<kBf16, KernelKind::kVjpQueries, 128>(&variants);
  sm90a::AddVariants<kBf16, KernelKind::kVjpKeys, 64>(&variants);
  sm90a::AddVariants<kBf16, KernelKind::kVjpKeys, 128>(&variants);
  sm90a::AddVariants<kBf16, KernelKind::kVjp, 64>(&variants);
  sm90a::AddVariants<kBf16, KernelKind::kVjp, 128>(&variants);
  return what == "time" ? Time(variants, match) : Check(variants, match);
}

}  // namespace

// Instead of the generated table, which has every arithmetic.
const void* FindStatisticsKernel(Arithmetic) {
  return reinterpret_cast<const void*>(&StatisticsKernel<MmaOf<Arithmetic::kBFloat16>::Type>);
}

}  // namespace theria::cuda

int main(int argc, char** argv) {
  return theria::cuda::Main(argc > 1 ? argv[1] : "check", argc > 2 ? argv[2] : "");
}
