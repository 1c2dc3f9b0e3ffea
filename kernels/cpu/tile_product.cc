#include "kernels/cpu/tile_product.h"

#include <cmath>

// Register blocks are arrays of vectors, which scalable vector types cannot form.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tile_product.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace theria::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Double = hn::CappedTag<double, kTileUnit>;
using Vector = hn::Vec<Double>;

// As many accumulators as hide the latency of a multiply-add and still fit the registers.
constexpr int kLanes = static_cast<int>(hn::MaxLanes(Double()));
constexpr int kBlockRows = kLanes == 8 ? 8 : 4;
constexpr int kBlockVectors = 2;

template <bool kTransposed>
HWY_INLINE double Element(ConstTile a, std::int64_t row, std::int64_t p) {
  return kTransposed ? a.data[p * a.stride + row] : a.data[row * a.stride + p];
}

// c[kBlockRows, kVectors * lanes] of Multiply or MultiplyTransposed.
template <bool kTransposed, int kVectors>
HWY_INLINE void Block(std::int64_t inner, ConstTile a, ConstTile b, Into into, Tile c) {
  const Double d;
  Vector sums[kBlockRows][kVectors];
  HWY_UNROLL(8)
  for (int row = 0; row < kBlockRows; ++row) {
    HWY_UNROLL(2)
    for (int v = 0; v < kVectors; ++v) {
      sums[row][v] =
          into == Into::kAdd ? hn::Load(d, c.data + row * c.stride + v * kLanes) : hn::Zero(d);
    }
  }
  for (std::int64_t p = 0; p < inner; ++p) {
    Vector factors[kVectors];
    HWY_UNROLL(2)
    for (int v = 0; v < kVectors; ++v) factors[v] = hn::Load(d, b.data + p * b.stride + v * kLanes);
    HWY_UNROLL(8)
    for (int row = 0; row < kBlockRows; ++row) {
      const Vector element = hn::Set(d, Element<kTransposed>(a, row, p));
      HWY_UNROLL(2)
      for (int v = 0; v < kVectors; ++v) {
        sums[row][v] = hn::MulAdd(element, factors[v], sums[row][v]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int row = 0; row < kBlockRows; ++row) {
    HWY_UNROLL(2)
    for (int v = 0; v < kVectors; ++v) {
      hn::Store(sums[row][v], d, c.data + row * c.stride + v * kLanes);
    }
  }
}

template <bool kTransposed, int kVectors>
HWY_INLINE void Panel(std::int64_t rows, std::int64_t inner, ConstTile a, ConstTile b, Into into,
                      Tile c) {
  for (std::int64_t row = 0; row < rows; row += kBlockRows) {
    const double* first = a.data + (kTransposed ? row : row * a.stride);
    Block<kTransposed, kVectors>(inner, {first, a.stride}, b, into,
                                 {c.data + row * c.stride, c.stride});
  }
}

template <bool kTransposed>
HWY_INLINE void Product(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a,
                        ConstTile b, Into into, Tile c) {
  constexpr std::int64_t kPanel = kBlockVectors * kLanes;
  std::int64_t column = 0;
  for (; column + kPanel <= columns; column += kPanel) {
    Panel<kTransposed, kBlockVectors>(rows, inner, a, {b.data + column, b.stride}, into,
                                      {c.data + column, c.stride});
  }
  if (column < columns) {
    Panel<kTransposed, 1>(rows, inner, a, {b.data + column, b.stride}, into,
                          {c.data + column, c.stride});
  }
}

void MultiplyPlain(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a,
                   ConstTile b, Into into, Tile c) {
  Product<false>(rows, columns, inner, a, b, into, c);
}

void MultiplyWithTransposed(std::int64_t rows, std::int64_t columns, std::int64_t inner,
                            ConstTile a, ConstTile b, Into into, Tile c) {
  Product<true>(rows, columns, inner, a, b, into, c);
}

// One row of c at a time, one term at a time: slow, for tiles with a NaN or an infinity only.
template <bool kTransposed>
HWY_INLINE void VisibleTerms(std::int64_t rows, std::int64_t columns, std::int64_t inner,
                             ConstTile a, ConstTile p, ConstTile b, Tile c) {
  const Double d;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < inner; ++i) {
      if (std::signbit(Element<kTransposed>(p, row, i))) continue;
      const Vector element = hn::Set(d, Element<kTransposed>(a, row, i));
      for (std::int64_t column = 0; column < columns; column += kLanes) {
        double* const sum = c.data + row * c.stride + column;
        const Vector factor = hn::Load(d, b.data + i * b.stride + column);
        hn::Store(hn::MulAdd(element, factor, hn::Load(d, sum)), d, sum);
      }
    }
  }
}

void AddVisiblePlain(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a,
                     ConstTile p, ConstTile b, Tile c) {
  VisibleTerms<false>(rows, columns, inner, a, p, b, c);
}

void AddVisibleWithTransposed(std::int64_t rows, std::int64_t columns, std::int64_t inner,
                              ConstTile a, ConstTile p, ConstTile b, Tile c) {
  VisibleTerms<true>(rows, columns, inner, a, p, b, c);
}

bool AllFiniteImpl(std::int64_t count, const double* x) {
  const Double d;
  Vector bits = hn::Zero(d);
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const Vector element = hn::Load(d, x + i);
    bits = hn::Or(bits, hn::Sub(element, element));  // 0 if finite, else NaN
  }
  return hn::AllTrue(d, hn::Eq(bits, hn::Zero(d)));
}

}  // namespace theria::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace theria::cpu {

HWY_EXPORT(MultiplyPlain);
HWY_EXPORT(MultiplyWithTransposed);
HWY_EXPORT(AddVisiblePlain);
HWY_EXPORT(AddVisibleWithTransposed);
HWY_EXPORT(AllFiniteImpl);

void Multiply(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a, ConstTile b,
              Into into, Tile c) {
  HWY_DYNAMIC_DISPATCH(MultiplyPlain)(rows, columns, inner, a, b, into, c);
}

void MultiplyTransposed(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a,
                        ConstTile b, Into into, Tile c) {
  HWY_DYNAMIC_DISPATCH(MultiplyWithTransposed)(rows, columns, inner, a, b, into, c);
}

void AddVisible(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a,
                ConstTile p, ConstTile b, Tile c) {
  HWY_DYNAMIC_DISPATCH(AddVisiblePlain)(rows, columns, inner, a, p, b, c);
}

void AddVisibleTransposed(std::int64_t rows, std::int64_t columns, std::int64_t inner, ConstTile a,
                          ConstTile p, ConstTile b, Tile c) {
  HWY_DYNAMIC_DISPATCH(AddVisibleWithTransposed)(rows, columns, inner, a, p, b, c);
}

bool AllFinite(std::int64_t count, const double* x) {
  return HWY_DYNAMIC_DISPATCH(AllFiniteImpl)(count, x);
}

}  // namespace theria::cpu
#endif  // HWY_ONCE
