#include "kernels/cpu/backend.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <fstream>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "hwy/targets.h"
#include "kernels/api/message.h"
#include "kernels/cpu/run.h"

namespace theria {
namespace {

constexpr char kDeviceId[] = "cpu";
constexpr Operation kOperations[] = {Operation::kForward, Operation::kVjp, Operation::kJvp,
                                     Operation::kHvp};
constexpr DType kDTypes[] = {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16};

int UsableCores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) return std::max(1, CPU_COUNT(&cores));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::string ProcessorName() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "CPU";
}

// The widest instructions that the kernels use here, as Highway names them ("AVX3").
std::string InstructionSet() {
  const std::int64_t targets = hwy::SupportedTargets();
  return hwy::TargetName(targets & -targets);  // better targets have lower bits
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuBackendOptions& options)
      : pool_(options.threads > 0 ? options.threads : UsableCores()) {}

  std::string_view name() const override { return "cpu"; }
  Memory& memory() override { return HostMemory(); }

  std::vector<DeviceInfo> Devices() const override {
    DeviceInfo device;
    device.id = kDeviceId;
    device.name = ProcessorName();
    device.memory_bytes = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) *
                          static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    device.architecture = InstructionSet();
    return {device};
  }

  std::vector<KernelSupport> Kernels() const override {
    std::vector<KernelSupport> kernels;
    for (const Operation operation : kOperations) {
      for (const DType dtype : kDTypes) {
        kernels.push_back({operation, Implementation::kReference, dtype, 1, kMaxHeadDim, 1});
      }
    }
    return kernels;
  }

  absl::Status Supports(const AttentionProblem& /*problem*/,
                        const AttentionOptions& options) const override {
    if (options.implementation == Implementation::kAuto ||
        options.implementation == Implementation::kReference) {
      return absl::OkStatus();
    }
    return absl::UnimplementedError(Message("the cpu backend has no implementation ",
                                            ImplementationName(options.implementation),
                                            "; it supports auto and reference"));
  }

  absl::StatusOr<ComputeReport> Run(const AttentionProblem& problem, const AttentionInputs& inputs,
                                    const AttentionOutputs& outputs,
                                    const Interrupt& interrupt) override {
    if (absl::Status status = Supports(problem, inputs.options); !status.ok()) return status;
    return RunOn(pool_, problem, inputs, outputs, interrupt);
  }

  // The threads take whole computations: small ones gain nothing from being shared out.
  void RunTogether(const AttentionProblem& problem, absl::Span<Computation> computations) override {
    if (computations.empty()) return;
    std::atomic<std::size_t> next{0};
    const auto helpers = static_cast<int>(
        std::min<std::size_t>(computations.size() - 1, static_cast<std::size_t>(pool_.threads())));
    pool_.Run(helpers, [&](cpu::ThreadPool::Seat& seat) {
      while (!seat.ShouldLeave()) {
        const std::size_t index = next.fetch_add(1);
        if (index >= computations.size()) return;
        Computation& one = computations[index];
        one.report = RunOn(alone_, problem, *one.inputs, *one.outputs, *one.interrupt);
      }
    });
  }

 private:
  static absl::StatusOr<ComputeReport> RunOn(cpu::ThreadPool& pool, const AttentionProblem& problem,
                                             const AttentionInputs& inputs,
                                             const AttentionOutputs& outputs,
                                             const Interrupt& interrupt) {
    const absl::Time start = absl::Now();
    const ScoreMod mod = MakeScoreMod(problem, inputs.options);
    const cpu::RunContext context = {problem, inputs, outputs, mod,
                                     cpu::MakeBlocking(problem, mod)};
    absl::Status status = cpu::RunOperation(context, interrupt, pool);
    if (!status.ok()) return status;
    ComputeReport report;
    report.implementation = Implementation::kReference;
    report.kernel = Message("cpu_reference_", OperationName(problem.operation));
    report.device = kDeviceId;
    report.compute_time = absl::Now() - start;
    return report;
  }

  cpu::ThreadPool pool_;
  cpu::ThreadPool alone_{1};  // its calls run on their callers' threads
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(const CpuBackendOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace theria
