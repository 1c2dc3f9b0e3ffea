// Times the CPU reference on request, so that tests/bench/cpu_reference/bench_cpu_reference.py can
// measure it and PyTorch by turns.
//
// A request is one line on standard input, an answer one line of JSON on standard output:
//   time OPERATION BATCH HEADS SEQ HEAD_DIM RUNS   -> {"seconds": [...]}
//   memory OPERATION BATCH HEADS SEQ HEAD_DIM      -> {"growth_bytes": ...}
//   info                                           -> {"device": ..., "instructions": ...}
// Tensors are float64, normally distributed. Growth is the peak resident size during a first run
// less the resident size before it, inputs and outputs being resident already.

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <list>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "kernels/api/attention.h"
#include "kernels/cpu/backend.h"

namespace theria {
namespace {

// All tensors of one problem, inputs and outputs.
class Tensors {
 public:
  Tensors(Operation operation, std::int64_t batch, std::int64_t heads, std::int64_t seq,
          std::int64_t dim) {
    const auto normal = [&] {
      return RowMajorView<const void>(Normal(batch * heads * seq * dim), DType::kFloat64,
                                      {batch, heads, seq, dim});
    };
    const bool tangents = operation == Operation::kJvp || operation == Operation::kHvp;
    inputs.q = normal();
    inputs.k = normal();
    inputs.v = normal();
    if (operation == Operation::kVjp || operation == Operation::kHvp) inputs.o_bar = normal();
    if (tangents) {
      inputs.q_dot = normal();
      inputs.k_dot = normal();
      inputs.v_dot = normal();
    }
    if (operation == Operation::kHvp) inputs.o_bar_dot = normal();
    problem = *Validate(operation, inputs);
    // What PyTorch's calls return, and nothing more.
    const auto output = [&](std::string_view name) {
      MutableTensorView view = OutputLayout(problem, name);
      view.data = storage_.emplace_back(view.NumElements(), 1.0).data();
      return view;
    };
    if (operation == Operation::kForward) outputs.o = output("o");
    if (operation == Operation::kJvp) {
      outputs.o = output("o");
      outputs.o_dot = output("o_dot");
    }
    if (inputs.o_bar.has_value()) {
      outputs.q_bar = output("q_bar");
      outputs.k_bar = output("k_bar");
      outputs.v_bar = output("v_bar");
    }
    if (operation == Operation::kHvp) {
      outputs.q_bar_dot = output("q_bar_dot");
      outputs.k_bar_dot = output("k_bar_dot");
      outputs.v_bar_dot = output("v_bar_dot");
    }
  }

  AttentionInputs inputs;
  AttentionOutputs outputs;
  AttentionProblem problem;

 private:
  const double* Normal(std::int64_t count) {
    std::vector<double>& values = storage_.emplace_back(count);
    std::normal_distribution<double> normal;
    for (double& value : values) value = normal(generator_);
    return values.data();
  }

  std::mt19937_64 generator_{0};
  std::list<std::vector<double>> storage_;
};

double Seconds(Backend& backend, const Tensors& tensors) {
  const absl::Time start = absl::Now();
  const auto report = backend.Run(tensors.problem, tensors.inputs, tensors.outputs, NoInterrupt());
  if (!report.ok()) {
    std::cerr << report.status() << "\n";
    std::exit(EXIT_FAILURE);
  }
  return absl::ToDoubleSeconds(absl::Now() - start);
}

// A field of /proc/self/status in bytes: VmRSS, or its peak VmHWM.
std::int64_t StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field + ":", 0) == 0) return std::stoll(line.substr(field.size() + 1)) * 1024;
  }
  return 0;
}

std::int64_t GrowthBytes(Backend& backend, const Tensors& tensors) {
  std::ofstream("/proc/self/clear_refs") << 5;  // the peak starts anew
  const std::int64_t before = StatusBytes("VmRSS");
  Seconds(backend, tensors);
  return StatusBytes("VmHWM") - before;
}

Operation ParseOperation(const std::string& name) {
  for (const Operation operation :
       {Operation::kForward, Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
    if (OperationName(operation) == name) return operation;
  }
  std::cerr << "unknown operation " << name << "\n";
  std::exit(2);
}

void Serve() {
  const std::unique_ptr<Backend> backend = MakeCpuBackend();
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream request(line);
    std::string command;
    std::string operation;
    std::int64_t batch = 0, heads = 0, seq = 0, dim = 0;
    nlohmann::json answer;
    request >> command;
    if (command == "info") {
      const DeviceInfo device = backend->Devices().front();
      answer = {{"device", device.name}, {"instructions", device.architecture}};
    } else {
      request >> operation >> batch >> heads >> seq >> dim;
      const Tensors tensors(ParseOperation(operation), batch, heads, seq, dim);
      if (command == "time") {
        int runs = 1;
        request >> runs;
        std::vector<double> seconds;
        for (int run = 0; run < runs; ++run) seconds.push_back(Seconds(*backend, tensors));
        answer["seconds"] = seconds;
      } else {
        answer["growth_bytes"] = GrowthBytes(*backend, tensors);
      }
    }
    std::cout << answer << std::endl;
  }
}

}  // namespace
}  // namespace theria

int main() {
  theria::Serve();
  return EXIT_SUCCESS;
}
