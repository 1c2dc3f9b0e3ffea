#ifndef THERIA_TESTS_CONFORMANCE_TARGET_H_
#define THERIA_TESTS_CONFORMANCE_TARGET_H_

#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/backend.h"
#include "tests/conformance/problem.h"

// What is tested, and how to run it.

namespace theria::conformance {

// How a target computes, which decides its tolerances.
enum class Arithmetic {
  kFloat64,      // everything in float64, rounded once on output
  kAccumulator,  // products of the inputs' dtype; sums in float32, in float64 for float64 inputs
  kTf32,         // the same, with TF32 products for float32 inputs
};

// An implementation of a backend.
struct Target {
  std::string name;
  Backend* backend;
  Implementation implementation;
  Arithmetic arithmetic;
  Precision precision = Precision::kStrict;

  // Whether an output is bitwise the same whatever else is asked for, runs stop between tiles, and
  // a saved o comes back as it was: promises of the reference alone.
  bool is_reference() const { return implementation == Implementation::kReference; }
};

std::ostream& operator<<(std::ostream& out, const Target& target);

// All that this build can test on this machine. A new backend is added in target.cc.
const std::vector<Target>& Targets();

// The outputs of an operation that a test asks for; empty: all that IsComputed says.
using OutputNames = std::vector<std::string>;

// Whether an operation has that output of a problem. Those of the bias count in extended cases.
bool IsComputed(const Problem& problem, Operation operation, const std::string& output);

// The outputs in memory: as the bytes of row-major tensors.
using HostTensors = std::map<std::string, HostTensor>;

// Runs an operation on the inputs that it takes (and saved "o" and "lse", where the problem has
// them). Outputs are allocated in `output_layout`. Errors: those of Validate and of Backend::Run.
absl::StatusOr<HostTensors> RunTensors(const Target& target, Operation operation,
                                       const Problem& problem, const OutputNames& outputs = {},
                                       const Interrupt& interrupt = NoInterrupt(),
                                       Layout output_layout = Layout::kRowMajor);

// The same by Backend::RunTogether, all outputs of problems of one shape; one error alone where a
// problem could not be prepared.
std::vector<absl::StatusOr<HostTensors>> RunTensorsTogether(const Target& target,
                                                            Operation operation,
                                                            const std::vector<Problem>& problems);

// The same as numbers; fails the test on an error.
Arrays RunArrays(const Target& target, Operation operation, const Problem& problem,
                 const OutputNames& outputs = {});

}  // namespace theria::conformance

#endif  // THERIA_TESTS_CONFORMANCE_TARGET_H_
