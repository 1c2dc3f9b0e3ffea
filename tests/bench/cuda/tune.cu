#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "kernels/api/message.h"
#include "kernels/cuda/attention/launch.h"
#include "kernels/cuda/attention/sm90a/tensor_maps.h"
#include "kernels/cuda/registry.h"
#include "kernels/cuda/tuning.h"

// Times all compiled kernels that do the same, on the GPU at hand, and writes which is the fastest
// at each length, causal or not: the table that CudaBackendOptions::tuning_table names, or, under
// kernels/cuda/tuning, the repository's for a GPU.
//   theria_cuda_tune FILE [TEXT]    only groups whose name contains TEXT

namespace theria::cuda {
namespace {

#define TUNE_CHECK(call)                                                    \
  do {                                                                      \
    const cudaError_t error = (call);                                       \
    if (error != cudaSuccess) {                                             \
      std::fprintf(stderr, "\n%s: %s\n", #call, cudaGetErrorString(error)); \
      std::exit(1);                                                         \
    }                                                                       \
  } while (false)

// Sums of four uniform numbers, of variance 1.
template <typename Element>
__global__ void FillNormal(Element* data, std::int64_t count, std::uint32_t seed) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= count) return;
  const PhiloxCounter bits = Philox4x32({static_cast<std::uint32_t>(index), 0, 0, 0}, {seed, 1});
  const float sum = (static_cast<float>(bits.x) + static_cast<float>(bits.y) +
                     static_cast<float>(bits.z) + static_cast<float>(bits.w)) /
                    4294967296.0f;
  data[index] = static_cast<Element>((sum - 2.0f) * 1.7320508f);
}

int ElementBytes(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kFloat16:
    case Arithmetic::kBFloat16:
      return 2;
    case Arithmetic::kTf32:
    case Arithmetic::kFloat32:
      return 4;
    case Arithmetic::kFloat64:
      return 8;
  }
  return 0;
}

struct Size {
  int batch, heads, seq;
};

// What a class of lengths is measured at.
Size SizeOf(LengthClass length, Arithmetic arithmetic) {
  switch (length) {
    case LengthClass::kShort:
      return {64, 8, 64};
    case LengthClass::kMedium:
      return {64, 12, 197};
    case LengthClass::kLong:
      break;
  }
  return ElementBytes(arithmetic) == 2 ? Size{4, 16, 4096} : Size{1, 16, 2048};
}

// Random inputs of one size, every output, and the statistics that derivatives read.
class Problem {
 public:
  Problem(const KernelChooser& kernels, Arithmetic arithmetic, int dim, const Size& size) {
    const std::int64_t count = std::int64_t{size.batch} * size.heads * size.seq * dim;
    const std::int64_t rows = std::int64_t{size.batch} * size.heads * StatisticsRows(size.seq);
    const auto tensor = [&] {
      void* data = Allocate(count * ElementBytes(arithmetic));
      const auto blocks = static_cast<unsigned>((count + 255) / 256);
      const auto seed = static_cast<std::uint32_t>(buffers_.size());
      switch (arithmetic) {
        case Arithmetic::kFloat16:
          FillNormal<<<blocks, 256>>>(static_cast<__half*>(data), count, seed);
          break;
        case Arithmetic::kBFloat16:
          FillNormal<<<blocks, 256>>>(static_cast<__nv_bfloat16*>(data), count, seed);
          break;
        case Arithmetic::kTf32:
        case Arithmetic::kFloat32:
          FillNormal<<<blocks, 256>>>(static_cast<float*>(data), count, seed);
          break;
        case Arithmetic::kFloat64:
          FillNormal<<<blocks, 256>>>(static_cast<double*>(data), count, seed);
          break;
      }
      return data;
    };
    const std::int64_t head_stride = std::int64_t{size.seq} * dim;
    const auto input = [&](void* data) {
      return InputRows{data, head_stride * size.heads, head_stride, dim};
    };
    const auto output = [&] {
      return OutputRows{tensor(), head_stride * size.heads, head_stride, dim};
    };
    params_.batch = size.batch;
    params_.heads_q = params_.heads_kv = size.heads;
    params_.group = 1;
    params_.seq_q = params_.seq_kv = size.seq;
    params_.head_dim = params_.head_dim_v = dim;
    params_.scale = 0.125;
    for (InputRows AttentionParams::*rows_of :
         {&AttentionParams::q, &AttentionParams::k, &AttentionParams::v, &AttentionParams::q_dot,
          &AttentionParams::k_dot, &AttentionParams::v_dot, &AttentionParams::o_bar,
          &AttentionParams::o_bar_dot}) {
      params_.*rows_of = input(tensor());
    }
    for (OutputRows AttentionParams::*rows_of :
         {&AttentionParams::o_out, &AttentionParams::o_dot_out, &AttentionParams::q_bar,
          &AttentionParams::k_bar, &AttentionParams::v_bar, &AttentionParams::q_bar_dot,
          &AttentionParams::k_bar_dot, &AttentionParams::v_bar_dot}) {
      params_.*rows_of = output();
    }
    params_.o = input(params_.o_out.data);
    params_.o_dot = input(params_.o_dot_out.data);
    params_.general = true;  // as the kernel below, whose row sums the statistics pass reads
    params_.lse = Allocate(rows * 8);
    params_.row_sums = Allocate(rows * 16);
    params_.inverse_sums = Allocate(rows * 8);
    params_.unfolded = static_cast<std::uint8_t*>(Allocate(rows / kStatisticsRowsPerBlock));
    params_.lse_dot = Allocate(rows * 8);
    params_.statistics = Allocate(rows * 32);
    params_.q_bar_sum_columns = (dim + 63) / 64 * 64;
    params_.q_bar_sum =
        static_cast<float*>(Allocate(rows * params_.q_bar_sum_columns * std::int64_t{4}));
    const KernelVariant* jvp =
        kernels.Find({KernelKind::kJvp, arithmetic, dim, true, TangentSet::kSome},
                     {.length = size.seq, .is_causal = false, .mapped = false});
    if (jvp == nullptr) return;
    TUNE_CHECK(LaunchKernel(*jvp, params_, nullptr));
    TUNE_CHECK(LaunchStatistics(arithmetic, params_, nullptr));
    TUNE_CHECK(cudaDeviceSynchronize());
  }
  ~Problem() {
    for (void* buffer : buffers_) cudaFree(buffer);
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  float MedianMilliseconds(const KernelVariant& variant, bool causal) {
    params_.score_mod.window_right = causal ? 0 : kUnbounded;
    cudaEvent_t begin, end;
    TUNE_CHECK(cudaEventCreate(&begin));
    TUNE_CHECK(cudaEventCreate(&end));
    std::vector<float> times;
    for (int run = 0; run < 12; ++run) {
      TUNE_CHECK(cudaEventRecord(begin));
      TUNE_CHECK(LaunchKernel(variant, params_, nullptr));
      TUNE_CHECK(cudaEventRecord(end));
      TUNE_CHECK(cudaEventSynchronize(end));
      float milliseconds = 0.0f;
      TUNE_CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
      if (run > 0) times.push_back(milliseconds);
    }
    TUNE_CHECK(cudaEventDestroy(begin));
    TUNE_CHECK(cudaEventDestroy(end));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

 private:
  void* Allocate(std::int64_t bytes) {
    void* data = nullptr;
    TUNE_CHECK(cudaMalloc(&data, static_cast<std::size_t>(bytes)));
    buffers_.push_back(data);
    return data;
  }

  static constexpr std::int64_t kUnbounded = ScoreMod().window_right;

  std::vector<void*> buffers_;
  AttentionParams params_ = {};
};

int Main(const std::string& path, const std::string& match) {
  cudaDeviceProp properties;
  TUNE_CHECK(cudaGetDeviceProperties(&properties, 0));
  const DeviceLimits device = {properties.major * 10 + properties.minor,
                               properties.sharedMemPerBlockOptin};
  const KernelChooser kernels(device, Tuning());

  // Groups with a choice, those that can share a problem beside each other.
  std::map<std::pair<Arithmetic, int>, std::map<std::string, std::vector<const KernelVariant*>>>
      problems;
  std::size_t count = 0;
  for (const KernelVariant& variant : KernelVariants()) {
    if (!CanRun(device, variant) || variant.group.find(match) == std::string::npos) continue;
    if (variant.key.extended) continue;  // reads key ranges, which Problem does not have
    problems[{variant.key.arithmetic, variant.key.dim}][variant.group].push_back(&variant);
  }
  for (auto& [shape, groups] : problems) {
    std::erase_if(groups, [](const auto& group) { return group.second.size() < 2; });
    count += groups.size() * 3;
  }

  Tuning tuning;
  std::size_t done = 0;
  for (const auto& [shape, groups] : problems) {
    if (groups.empty()) continue;
    for (const LengthClass length :
         {LengthClass::kShort, LengthClass::kMedium, LengthClass::kLong}) {
      Problem problem(kernels, shape.first, shape.second, SizeOf(length, shape.first));
      for (const auto& [group, variants] : groups) {
        std::fprintf(stderr, "\r[%zu/%zu] %-50s", ++done, count, group.c_str());
        std::map<const KernelVariant*, std::array<float, 2>> milliseconds;
        for (const KernelVariant* variant : variants) {
          const std::array<float, 2> of_masks = {problem.MedianMilliseconds(*variant, false),
                                                 problem.MedianMilliseconds(*variant, true)};
          std::printf("%s %s %.4f ms, causal %.4f ms\n", variant->name.c_str(),
                      std::string(LengthClassName(length)).c_str(), of_masks[0], of_masks[1]);
          milliseconds[variant] = of_masks;
        }
        const auto fastest = [&](bool is_causal) {
          return *std::min_element(variants.begin(), variants.end(), [&](auto* a, auto* b) {
            return milliseconds[a][is_causal] < milliseconds[b][is_causal];
          });
        };
        tuning.Choose(group, length, false, fastest(false)->name);
        if (fastest(true) != fastest(false)) {
          tuning.Choose(group, length, true, fastest(true)->name);
        }
      }
    }
  }
  std::fprintf(stderr, "\n");
  std::ofstream file(path);
  file << "# The fastest kernels on one " << properties.name
       << ", as theria_cuda_tune found them.\n"
       << tuning.ToString();
  return file.flush() ? 0 : 1;
}

}  // namespace
}  // namespace theria::cuda

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: theria_cuda_tune FILE [TEXT]\n");
    return 2;
  }
  return theria::cuda::Main(argv[1], argc > 2 ? argv[2] : "");
}
