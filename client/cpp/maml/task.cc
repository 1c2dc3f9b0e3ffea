#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "theria/maml_task.h"

namespace theria::maml {
namespace {

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;
constexpr std::uint64_t kStreamsPerTask = 16;

constexpr std::uint64_t Mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// One stream of the recipe in the header: random access draws.
class Stream {
 public:
  Stream(std::uint64_t seed, std::uint64_t number)
      : key_(Mix(Mix(seed) + kGolden * (number + 1))) {}

  double Uniform(std::uint64_t i) const {
    return static_cast<double>(Mix(key_ + kGolden * (i + 1)) >> 11) * 0x1p-53;
  }
  double Normal(std::uint64_t i) const {
    return std::sqrt(-2.0 * std::log(1.0 - Uniform(2 * i))) *
           std::cos(2.0 * std::numbers::pi * Uniform(2 * i + 1));
  }
  // Uniform in [0, bound).
  int Below(int bound, std::uint64_t i) const {
    return static_cast<int>(static_cast<double>(bound) * Uniform(i));
  }

 private:
  std::uint64_t key_;
};

std::vector<int> SignalPositions(const TaskSpec& spec, const Stream& stream, int example) {
  std::vector<int> positions(spec.length - 1);
  std::iota(positions.begin(), positions.end(), 1);
  for (int j = 0; j < spec.signal_positions; ++j) {
    const auto draw = static_cast<std::uint64_t>(example) * spec.signal_positions + j;
    std::swap(positions[j], positions[j + stream.Below(spec.length - 1 - j, draw)]);
  }
  positions.resize(spec.signal_positions);
  return positions;
}

// Streams base, base + 1 and base + 2: labels, positions, noise.
Episode MakeEpisode(const TaskSpec& spec, std::uint64_t seed, std::uint64_t base, int examples,
                    const Matrix& prototypes) {
  const Stream labels(seed, base), positions(seed, base + 1), noise(seed, base + 2);
  Episode episode{.x = Matrix(examples * spec.length, spec.d_model),
                  .labels = std::vector<int>(examples)};
  for (Eigen::Index i = 0; i < episode.x.size(); ++i) {
    episode.x.data()[i] = spec.noise * noise.Normal(static_cast<std::uint64_t>(i));
  }
  for (int i = 0; i < examples; ++i) {
    episode.labels[i] = labels.Below(spec.classes, i);
    for (const int position : SignalPositions(spec, positions, i)) {
      episode.x.row(i * spec.length + position) += prototypes.row(episode.labels[i]);
    }
  }
  return episode;
}

}  // namespace

Task MakeTask(const TaskSpec& spec, std::uint64_t seed, std::uint64_t index) {
  const std::uint64_t base = kStreamsPerTask * (index + 1);
  const Stream stream(seed, base);
  Matrix prototypes(spec.classes, spec.d_model);
  for (Eigen::Index i = 0; i < prototypes.size(); ++i) prototypes.data()[i] = stream.Normal(i);
  return {.support = MakeEpisode(spec, seed, base + 1, spec.support, prototypes),
          .query = MakeEpisode(spec, seed, base + 4, spec.query, prototypes)};
}

Vector MakeParameters(const TaskSpec& spec, std::uint64_t seed) {
  const Eigen::Index square = Eigen::Index{spec.d_model} * spec.d_model;
  const Eigen::Index sizes[] = {square, square, square, Eigen::Index{spec.classes} * spec.d_model,
                                spec.classes};
  Vector parameters(std::accumulate(std::begin(sizes), std::end(sizes), Eigen::Index{0}));
  const double bound = 1.0 / std::sqrt(static_cast<double>(spec.d_model));
  double* next = parameters.data();
  for (std::uint64_t number = 0; number < std::size(sizes); ++number) {
    const Stream stream(seed, number);
    for (Eigen::Index i = 0; i < sizes[number]; ++i) {
      *next++ = (2.0 * stream.Uniform(i) - 1.0) * bound;
    }
  }
  return parameters;
}

}  // namespace theria::maml
