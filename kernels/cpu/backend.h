#ifndef THERIA_KERNELS_CPU_BACKEND_H_
#define THERIA_KERNELS_CPU_BACKEND_H_

#include <memory>

#include "kernels/api/backend.h"

// The CPU reference: forward, VJP, JVP and HVP of docs/operator_contract.md, computed in float64
// whatever the dtype of the tensors and rounded once, on output. It is the oracle that every other
// implementation is compared with.
//
// Results are bitwise the same from run to run and for any number of threads. Workspace grows with
// seq_kv, never with seq_q * seq_kv. The formulas and the blocking are in
// docs/decisions/0001-cpu-reference-arithmetic.md.

namespace theria {

struct CpuBackendOptions {
  // Threads that compute at once, those that call Run included; 0: one for each core that the
  // process may use.
  int threads = 0;
};

// Serves kAuto and kReference; kFused and kUnfused are UNIMPLEMENTED. Its memory is HostMemory().
// Callers of Run take part in the work; helper threads join only where cores are free, and problems
// of a few microseconds never leave the calling thread.
// REQUIRES: options.threads >= 0.
std::unique_ptr<Backend> MakeCpuBackend(const CpuBackendOptions& options = {});

}  // namespace theria

#endif  // THERIA_KERNELS_CPU_BACKEND_H_
