#ifndef THERIA_KERNELS_CUDA_TUNING_H_
#define THERIA_KERNELS_CUDA_TUNING_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

// Which of several kernels that do the same is the fastest, by the length of the sequences and
// whether attention is causal: what a sweep on a device found. tests/bench/cuda/tune.cc writes such
// tables; tuning/ holds the repository's.

namespace theria::cuda {

enum class LengthClass : std::uint8_t {
  kShort,   // up to 64
  kMedium,  // up to 512
  kLong,
};

LengthClass LengthClassOf(std::int64_t length);
std::string_view LengthClassName(LengthClass length);

class Tuning {
 public:
  // No choices.
  Tuning() = default;

  // Reads lines "group length variant" or "group length causal variant", the group a variant's name
  // without its tile, the length "short", "medium" or "long"; '#' starts a comment. Names that no
  // kernel has are kept: they never match. Errors: INVALID_ARGUMENT that names the line.
  static absl::StatusOr<Tuning> Parse(std::string_view text);
  // Errors: NOT_FOUND where the file cannot be read; those of Parse.
  static absl::StatusOr<Tuning> Read(const std::string& path);
  // The repository's table for a GPU of that name ("NVIDIA H200"); no choices where there is none.
  static Tuning Default(std::string_view gpu);

  // The name of the chosen variant; empty where nothing was chosen. Where nothing was chosen for
  // causal attention, what was chosen without.
  std::string_view Choice(std::string_view group, LengthClass length, bool is_causal) const;
  void Choose(std::string_view group, LengthClass length, bool is_causal, std::string_view variant);
  // What Parse reads.
  std::string ToString() const;

 private:
  std::map<std::string, std::string, std::less<>>
      choices_;  // by "group length" or "group length causal"
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_TUNING_H_
