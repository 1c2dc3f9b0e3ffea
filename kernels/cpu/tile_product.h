#ifndef THERIA_KERNELS_CPU_TILE_PRODUCT_H_
#define THERIA_KERNELS_CPU_TILE_PRODUCT_H_

#include <cstdint>

// Products of float64 tiles that fit the caches, in the widest SIMD instructions of the machine,
// chosen at run time. Each element of a result is one chain of fused multiply-adds over `inner` in
// ascending order, so that results do not depend on how a tile is cut into registers.

namespace theria::cpu {

// Sizes that a vector register may divide: rows and columns of products are multiples of this.
inline constexpr std::int64_t kTileUnit = 8;

constexpr std::int64_t RoundUpToTileUnit(std::int64_t size) {
  return (size + kTileUnit - 1) / kTileUnit * kTileUnit;
}

// A row-major matrix in memory, rows `stride` elements apart.
struct ConstTile {
  const double* data;
  std::int64_t stride;
};
struct Tile {
  double* data;
  std::int64_t stride;
  operator ConstTile() const { return {data, stride}; }  // NOLINT(google-explicit-constructor)
};

enum class Into { kOverwrite, kAdd };

// c[rows, columns] = or += a[rows, inner] b[inner, columns].
// REQUIRES: `rows` and `columns` are multiples of kTileUnit, as are the strides of b and c; b and c
// are 64-byte aligned; c overlaps neither a nor b.
void Multiply(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a, ConstTile b,
              Into into, Tile c);

// c[rows, columns] = or += a[inner, rows]^T b[inner, columns]. REQUIRES: as Multiply.
void MultiplyTransposed(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a,
                        ConstTile b, Into into, Tile c);

// c += a b without the terms of forbidden pairs, which are those whose element of p[rows, inner]
// has its sign bit set (kernels/cpu/tile_math.h). Multiply gives the same bits where b is finite
// and a is 0 at the forbidden pairs, but there 0 times NaN or infinity would be NaN.
// REQUIRES: as Multiply.
void AddVisible(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a,
                ConstTile p, ConstTile b, Tile c);

// The same with a[inner, rows]^T and p[inner, rows]^T.
void AddVisibleTransposed(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a,
                          ConstTile p, ConstTile b, Tile c);

// Whether x[0..count) holds no NaN and no infinity. REQUIRES: `count` is a multiple of kTileUnit, x
// is 64-byte aligned.
bool AllFinite(std::int64_t count, const double* x);

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_TILE_PRODUCT_H_
