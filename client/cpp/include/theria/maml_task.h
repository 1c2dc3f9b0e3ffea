#ifndef THERIA_MAML_TASK_H_
#define THERIA_MAML_TASK_H_

#include <Eigen/Core>
#include <cstdint>
#include <vector>

// The synthetic few-shot task of the meta-learning experiments, and the model's initial
// parameters, as pure functions of a seed. The recipe below reproduces them in any language; only
// log and cos may differ in the last bit between mathematical libraries. Thread-safe.
//
// An example is a sequence of noise in which a few positions carry the prototype of its class.
// Position 0 never does: the model takes its query from there and must find the signal by
// attention.
//
// Recipe. Unsigned 64-bit arithmetic wraps. Draws are independent of their order.
//
//     G             = 0x9e3779b97f4a7c15
//     Mix(z)        : z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
//                     z = (z ^ (z >> 27)) * 0x94d049bb133111eb
//                     z ^ (z >> 31)                               (the finaliser of SplitMix64)
//     Bits(s, i)    = Mix(Mix(Mix(seed) + G * (s + 1)) + G * (i + 1))
//     Uniform(s, i) = (Bits(s, i) >> 11) * 2^-53                  in [0, 1)
//     Normal(s, i)  = sqrt(-2 ln(1 - Uniform(s, 2i))) * cos(2 pi Uniform(s, 2i + 1))
//
// The streams s of task number n, with base = 16 * (n + 1):
//
//     base + 0      prototypes: prototype[c][d] = Normal(c * d_model + d)
//     base + 1      support labels: label[i] = floor(classes * Uniform(i))
//     base + 2      support positions of example i: begin with p = [1, 2, ..., length - 1]; for
//                   j = 0 .. signal_positions - 1 in turn, swap p[j] with
//                   p[j + floor((length - 1 - j) * Uniform(i * signal_positions + j))]; the signal
//                   is at p[0], ..., p[signal_positions - 1]
//     base + 3      support noise
//     base + 4,5,6  the same for the query set
//     x[i][t][d]    = noise * Normal((i * length + t) * d_model + d)
//                     + (prototype[label[i]][d] if t is a signal position of example i)
//
// The streams of the initial parameters, row-major, each element
// (2 * Uniform(i) - 1) / sqrt(d_model), like the initial values of a PyTorch linear layer:
//
//     0 w_q, 1 w_k, 2 w_v [d_model, d_model]    3 w_head [classes, d_model]    4 b_head [classes]

namespace theria::maml {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::VectorXd;

struct TaskSpec {
  int support = 16;  // examples to adapt to
  int query = 16;    // examples to evaluate the adapted model on
  int length = 32;   // tokens per sequence; at least signal_positions + 1
  int d_model = 64;  // elements per token
  int classes = 5;
  int signal_positions = 4;  // tokens per sequence that carry its class
  double noise = 1.0;        // standard deviation of each element
};

// Examples with their labels.
struct Episode {
  Matrix x;                 // [examples * length, d_model], example by example
  std::vector<int> labels;  // [examples], in [0, classes)
};

struct Task {
  Episode support;
  Episode query;
};

// Task number `index` of `seed`. REQUIRES: every count positive, length > signal_positions.
Task MakeTask(const TaskSpec& spec, std::uint64_t seed, std::uint64_t index);

// [w_q, w_k, w_v, w_head, b_head], each row-major, one after the other: 3 d_model^2 +
// classes d_model + classes elements.
Vector MakeParameters(const TaskSpec& spec, std::uint64_t seed);

}  // namespace theria::maml

#endif  // THERIA_MAML_TASK_H_
