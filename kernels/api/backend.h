#ifndef THERIA_KERNELS_API_BACKEND_H_
#define THERIA_KERNELS_API_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/api/attention.h"
#include "kernels/api/memory.h"

// What the server needs from the numerics: one interface for the CPU reference and for CUDA.

namespace theria {

// Asked now and then during a computation whether to go on. Thread-safe.
class Interrupt {
 public:
  virtual ~Interrupt() = default;
  // OK to continue; CANCELLED or DEADLINE_EXCEEDED to stop. Cheap.
  virtual absl::Status Check() const = 0;
};

// An Interrupt that never stops anything.
const Interrupt& NoInterrupt();

struct DeviceInfo {
  std::string id;    // "cpu", "cuda:0"
  std::string name;  // as the vendor names it
  std::size_t memory_bytes = 0;
  std::string architecture;  // "x86-64-v4", "sm_90"
};

// A set of problems that one kind of kernel covers.
struct KernelSupport {
  Operation operation;
  Implementation implementation;
  DType dtype;
  std::int64_t min_head_dim, max_head_dim, head_dim_multiple;
};

struct ComputeReport {
  Implementation implementation = Implementation::kReference;  // never kAuto
  std::string kernel;           // "cpu_reference_hvp", names the variant that ran
  std::string device;           // DeviceInfo::id
  absl::Duration compute_time;  // by the device's own clock where it has one
};

// One of the computations that RunTogether does; `report` is its result. All but that outlive it.
struct Computation {
  const AttentionInputs* inputs;
  const AttentionOutputs* outputs;
  const Interrupt* interrupt;
  absl::StatusOr<ComputeReport> report = absl::UnknownError("not computed");
};

// Thread-safe: any number of threads may call Run at once.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;  // "cpu", "cuda"
  virtual std::vector<DeviceInfo> Devices() const = 0;
  virtual std::vector<KernelSupport> Kernels() const = 0;

  // Where the tensors that Run reads and writes must live.
  virtual Memory& memory() = 0;

  // Host memory that its device copies from and to fastest; for tensors spilled from memory().
  virtual Memory& spill_memory() { return HostMemory(); }

  // Errors: INTERNAL, for good, once a fault has left the device unusable for this process.
  virtual absl::Status health() const { return absl::OkStatus(); }

  // OK if Run has a kernel for this. Errors: UNIMPLEMENTED, naming what is supported.
  virtual absl::Status Supports(const AttentionProblem& problem,
                                const AttentionOptions& options) const = 0;

  // Computes the outputs that are present; returns when they are complete. On an error their
  // contents are unspecified.
  // REQUIRES: `problem` is what Validate made of `inputs`; outputs as AttentionOutputs says.
  // Errors: UNIMPLEMENTED as Supports, RESOURCE_EXHAUSTED (workspace), what `interrupt` gives,
  // INTERNAL (device fault).
  virtual absl::StatusOr<ComputeReport> Run(const AttentionProblem& problem,
                                            const AttentionInputs& inputs,
                                            const AttentionOutputs& outputs,
                                            const Interrupt& interrupt) = 0;

  // Computes small problems of the same sizes, dtype and options (masks apart, which are of one
  // shape) at less cost than one after the other. Every result is bit for bit that of Run, and none
  // depends on what becomes of the others.
  // REQUIRES: for each computation as Run.
  virtual void RunTogether(const AttentionProblem& problem, absl::Span<Computation> computations) {
    for (Computation& one : computations) {
      one.report = Run(problem, *one.inputs, *one.outputs, *one.interrupt);
    }
  }
};

}  // namespace theria

#endif  // THERIA_KERNELS_API_BACKEND_H_
