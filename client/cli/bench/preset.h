#ifndef THERIA_CLIENT_CLI_BENCH_PRESET_H_
#define THERIA_CLIENT_CLI_BENCH_PRESET_H_

#include <cstdint>
#include <string_view>

namespace theria::cli {

// A named problem size: [batch, heads, seq, head_dim], queries and keys alike.
struct Preset {
  std::string_view name;
  std::int64_t batch, heads, seq, head_dim;
};

inline constexpr Preset kPresets[] = {
    {"small", 4, 4, 128, 64}, {"medium", 8, 8, 256, 64}, {"large", 2, 16, 1024, 64},
    {"vit", 64, 12, 197, 64},  // a vision transformer's base model, 196 patches and a class token
    {"maml", 16, 1, 32, 64},   // one task of the meta-learning example: 16 sequences of length 32
};

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_BENCH_PRESET_H_
