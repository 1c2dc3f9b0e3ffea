#include "kernels/cpu/tile_math.h"

#include <limits>

#include "kernels/cpu/tile_product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tile_math.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// Includes hwy/highway.h a second time, once for each target.
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace theria::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Double = hn::CappedTag<double, kTileUnit>;
using Vector = hn::Vec<Double>;

HWY_INLINE Vector LoadAt(const double* array, std::int64_t index) {
  return hn::Load(Double(), array + index);
}

HWY_INLINE void StoreAt(Vector value, double* array, std::int64_t index) {
  hn::Store(value, Double(), array + index);
}

// Calls body(offset of a vector in the tile, its offset in a row), key by key.
template <typename Body>
HWY_INLINE void ForEach(TileSize size, Body body) {
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(Double()));
  for (std::int64_t key = 0; key < size.keys; ++key) {
    for (std::int64_t query = 0; query < size.queries; query += lanes) {
      body(key * size.queries + query, query);
    }
  }
}

// The sign bit alone, of zeros and NaN too, which IfNegativeThenElse does not promise.
HWY_INLINE hn::Mask<Double> HasSign(Vector x) {
  const Double d;
  const hn::RebindToSigned<Double> bits;
  return hn::MaskFromVec(hn::BitCast(d, hn::BroadcastSignBit(hn::BitCast(bits, x))));
}

// `value` where the pair takes part, 0 where it is forbidden.
HWY_INLINE Vector UnlessForbidden(Vector p, Vector value) {
  return hn::IfThenZeroElse(HasSign(p), value);
}

// The sign of a NaN is free to mark forbidden pairs.
HWY_INLINE Vector WithoutSignOfNan(Vector score) {
  return hn::IfThenElse(hn::IsNaN(score), hn::Abs(score), score);
}

void ScaleScoresImpl(TileSize size, double scale, const double* bias, double* s, double* row_max) {
  const Double d;
  const Vector factor = hn::Set(d, scale);
  if (bias == nullptr) {
    ForEach(size, [&](std::int64_t at, std::int64_t query) HWY_ATTR {
      const Vector score = hn::Mul(factor, LoadAt(s, at));
      StoreAt(WithoutSignOfNan(score), s, at);
      StoreAt(hn::Max(LoadAt(row_max, query), score), row_max, query);
    });
    return;
  }
  const Vector lowest = hn::Set(d, -std::numeric_limits<double>::infinity());
  const Vector mark = hn::Set(d, -std::numeric_limits<double>::quiet_NaN());
  ForEach(size, [&](std::int64_t at, std::int64_t query) HWY_ATTR {
    const Vector added = LoadAt(bias, at);
    const auto forbidden = hn::Eq(added, lowest);
    const Vector score = hn::MulAdd(factor, LoadAt(s, at), added);
    StoreAt(hn::IfThenElse(forbidden, mark, WithoutSignOfNan(score)), s, at);
    const Vector candidate = hn::IfThenElse(forbidden, lowest, score);
    StoreAt(hn::Max(LoadAt(row_max, query), candidate), row_max, query);
  });
}

void ExponentiateScoresImpl(TileSize size, const double* row_max, double* s, double* row_sum) {
  const Double d;
  const Vector mark = hn::Set(d, -0.0);
  ForEach(size, [&](std::int64_t at, std::int64_t query) HWY_ATTR {
    const Vector score = LoadAt(s, at);
    const Vector exponent = hn::Sub(score, LoadAt(row_max, query));
    // Exp maps NaN to 0, so NaN bypasses it.
    const Vector visible =
        hn::IfThenElse(hn::IsNaN(exponent), hn::Abs(exponent), hn::Exp(d, exponent));
    const auto forbidden = hn::And(hn::IsNaN(score), HasSign(score));
    const Vector p = hn::IfThenElse(forbidden, mark, visible);
    StoreAt(p, s, at);
    StoreAt(hn::Add(LoadAt(row_sum, query), p), row_sum, query);
  });
}

void AddWeightedSumImpl(TileSize size, const double* p, const double* x, double* row_sum) {
  ForEach(size, [&](std::int64_t at, std::int64_t query) HWY_ATTR {
    const Vector weight = LoadAt(p, at);
    const Vector term = UnlessForbidden(weight, hn::Mul(weight, LoadAt(x, at)));
    StoreAt(hn::Add(LoadAt(row_sum, query), term), row_sum, query);
  });
}

void MultiplyElementsImpl(TileSize size, const double* factor, double* x) {
  ForEach(size, [&](std::int64_t at, std::int64_t /*query*/)
                    HWY_ATTR { StoreAt(hn::Mul(LoadAt(x, at), LoadAt(factor, at)), x, at); });
}

void ScaleRowsImpl(TileSize size, const double* row_factor, double* p) {
  ForEach(size, [&](std::int64_t at, std::int64_t query) HWY_ATTR {
    const Vector element = LoadAt(p, at);
    const Vector scaled = hn::Mul(element, LoadAt(row_factor, query));
    StoreAt(hn::IfThenElse(HasSign(element), element, scaled), p, at);
  });
}

void CenterAndWeightImpl(TileSize size, const double* p, double scale, const double* center,
                         double* x) {
  const Vector factor = hn::Set(Double(), scale);
  ForEach(size, [&](std::int64_t at, std::int64_t query) HWY_ATTR {
    const Vector weight = LoadAt(p, at);
    const Vector centered = hn::MulSub(factor, LoadAt(x, at), LoadAt(center, query));
    StoreAt(UnlessForbidden(weight, hn::Mul(weight, centered)), x, at);
  });
}

void AddDeltaDotImpl(TileSize size, const double* p, double scale, const double* s_dot,
                     const double* mu, const double* p_bar, const double* p_bar_dot,
                     double* row_sum) {
  const Vector factor = hn::Set(Double(), scale);
  ForEach(size, [&](std::int64_t at, std::int64_t query) HWY_ATTR {
    const Vector weight = LoadAt(p, at);
    const Vector centered = hn::MulSub(factor, LoadAt(s_dot, at), LoadAt(mu, query));
    const Vector sum = hn::MulAdd(centered, LoadAt(p_bar, at), LoadAt(p_bar_dot, at));
    const Vector term = UnlessForbidden(weight, hn::Mul(weight, sum));
    StoreAt(hn::Add(LoadAt(row_sum, query), term), row_sum, query);
  });
}

void TangentStepImpl(TileSize size, const double* p, double scale,
                     const TangentStatistics& statistics, double* s_dot, double* p_bar,
                     double* p_bar_dot) {
  const Vector factor = hn::Set(Double(), scale);
  ForEach(size, [&](std::int64_t at, std::int64_t query) HWY_ATTR {
    const Vector weight = LoadAt(p, at);
    const Vector centered = hn::MulSub(factor, LoadAt(s_dot, at), LoadAt(statistics.mu, query));
    const Vector bar = hn::Sub(LoadAt(p_bar, at), LoadAt(statistics.delta, query));
    const Vector bar_dot = hn::Sub(LoadAt(p_bar_dot, at), LoadAt(statistics.delta_dot, query));
    StoreAt(UnlessForbidden(weight, hn::Mul(weight, centered)), s_dot, at);
    StoreAt(UnlessForbidden(weight, hn::Mul(weight, bar)), p_bar, at);
    StoreAt(UnlessForbidden(weight, hn::Mul(weight, hn::MulAdd(bar, centered, bar_dot))), p_bar_dot,
            at);
  });
}

}  // namespace theria::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace theria::cpu {

HWY_EXPORT(ScaleScoresImpl);
HWY_EXPORT(ExponentiateScoresImpl);
HWY_EXPORT(AddWeightedSumImpl);
HWY_EXPORT(MultiplyElementsImpl);
HWY_EXPORT(ScaleRowsImpl);
HWY_EXPORT(CenterAndWeightImpl);
HWY_EXPORT(AddDeltaDotImpl);
HWY_EXPORT(TangentStepImpl);

void ScaleScores(TileSize size, double scale, const double* bias, double* s, double* row_max) {
  HWY_DYNAMIC_DISPATCH(ScaleScoresImpl)(size, scale, bias, s, row_max);
}

void ExponentiateScores(TileSize size, const double* row_max, double* s, double* row_sum) {
  HWY_DYNAMIC_DISPATCH(ExponentiateScoresImpl)(size, row_max, s, row_sum);
}

void AddWeightedSum(TileSize size, const double* p, const double* x, double* row_sum) {
  HWY_DYNAMIC_DISPATCH(AddWeightedSumImpl)(size, p, x, row_sum);
}

void MultiplyElements(TileSize size, const double* factor, double* x) {
  HWY_DYNAMIC_DISPATCH(MultiplyElementsImpl)(size, factor, x);
}

void ScaleRows(TileSize size, const double* row_factor, double* p) {
  HWY_DYNAMIC_DISPATCH(ScaleRowsImpl)(size, row_factor, p);
}

void CenterAndWeight(TileSize size, const double* p, double scale, const double* center,
                     double* x) {
  HWY_DYNAMIC_DISPATCH(CenterAndWeightImpl)(size, p, scale, center, x);
}

void AddDeltaDot(TileSize size, const double* p, double scale, const double* s_dot,
                 const double* mu, const double* p_bar, const double* p_bar_dot, double* row_sum) {
  HWY_DYNAMIC_DISPATCH(AddDeltaDotImpl)(size, p, scale, s_dot, mu, p_bar, p_bar_dot, row_sum);
}

void TangentStep(TileSize size, const double* p, double scale, const TangentStatistics& statistics,
                 double* s_dot, double* p_bar, double* p_bar_dot) {
  HWY_DYNAMIC_DISPATCH(TangentStepImpl)(size, p, scale, statistics, s_dot, p_bar, p_bar_dot);
}

}  // namespace theria::cpu
#endif  // HWY_ONCE
