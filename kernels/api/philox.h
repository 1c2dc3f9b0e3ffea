#ifndef THERIA_KERNELS_API_PHILOX_H_
#define THERIA_KERNELS_API_PHILOX_H_

#include <cstdint>

#include "kernels/api/host_device.h"

// Philox4x32-10, the counter-based random generator of J. Salmon, M. Moraes, R. Dror and D. Shaw,
// "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A pure function of counter and key, so
// that the CPU reference and every kernel draw the same bits whatever their tiling.

namespace theria {

struct PhiloxCounter {
  std::uint32_t x, y, z, w;
};

struct PhiloxKey {
  std::uint32_t x, y;
};

THERIA_HOST_DEVICE PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product_x = std::uint64_t{0xD2511F53u} * counter.x;
    const std::uint64_t product_z = std::uint64_t{0xCD9E8D57u} * counter.z;
    counter = {static_cast<std::uint32_t>(product_z >> 32) ^ counter.y ^ key.x,
               static_cast<std::uint32_t>(product_z),
               static_cast<std::uint32_t>(product_x >> 32) ^ counter.w ^ key.y,
               static_cast<std::uint32_t>(product_x)};
    key.x += 0x9E3779B9u;
    key.y += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace theria

#endif  // THERIA_KERNELS_API_PHILOX_H_
