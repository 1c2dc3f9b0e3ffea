#include "kernels/cpu/row_block.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/score_tile.h"

namespace theria::cpu {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Whether S_dot is more than `scale` times a sum of products.
bool ChangesTangents(const RunContext& context) {
  return context.mod.softcap.enabled() || context.inputs.bias_dot.has_value();
}

}  // namespace

RowBlock::RowBlock(const RunContext& context, const Needs& needs)
    : context_(context),
      inputs_(context.inputs),
      blocking_(context.blocking),
      needs_(needs),
      s_dot_scale_(ChangesTangents(context) ? 1.0 : context.problem.scale) {
  const std::int64_t queries = blocking_.block_queries;
  const std::int64_t keys = blocking_.tile_keys;
  const std::int64_t dim = blocking_.head_dim;
  const std::int64_t dim_v = blocking_.head_dim_v;
  const bool has_keep = context_.mod.dropout.enabled();

  ReserveRows(inputs_.q, true, true, dim, q);
  ReserveRows(inputs_.q_dot, needs_.s_dot || needs_.k_bar_dot, needs_.s_dot, dim, q_dot);
  ReserveRows(inputs_.o_bar, needs_.p_bar || needs_.v_bar || needs_.v_bar_dot, needs_.p_bar, dim_v,
              o_bar);
  ReserveRows(inputs_.o_bar_dot, needs_.second_order || needs_.v_bar_dot, needs_.second_order,
              dim_v, o_bar_dot);

  const auto reserve = [&](bool needed, double** array, std::int64_t rows, std::int64_t columns) {
    if (needed) arena_.Reserve(array, rows, columns);
  };
  const std::int64_t block_keys = blocking_.block_tiles * keys;
  reserve(true, &p, block_keys, queries);
  reserve(needs_.s_dot, &s_dot, block_keys, queries);
  reserve(needs_.p_bar, &p_bar, block_keys, queries);
  reserve(needs_.second_order, &p_bar_dot, block_keys, queries);
  const bool has_cap = context_.mod.softcap.enabled();
  reserve(has_cap, &cap_t_, keys, queries);
  reserve(has_cap && (needs_.s_dot || needs_.p_bar), &cap_w_, block_keys, queries);
  reserve(has_cap && needs_.second_order, &cap_bend_, block_keys, queries);
  reserve(true, &k_.data, keys, dim);
  reserve(true, &v_.data, keys, dim_v);
  reserve(inputs_.k_dot.has_value(), &k_dot_.data, keys, dim);
  reserve(inputs_.v_dot.has_value(), &v_dot_.data, keys, dim_v);
  reserve(true, &bias_, keys, queries);
  reserve(has_keep, &keep_, keys, queries);
  reserve(needs_.o, &o, queries, dim_v);
  reserve(needs_.o_dot, &o_dot, queries, dim_v);
  reserve(needs_.q_bar, &q_bar, queries, dim);
  reserve(needs_.q_bar_dot, &q_bar_dot, queries, dim);
  for (double** statistic : {&row_max_, &row_sum_, &lse_, &mu_, &delta_, &delta_dot_}) {
    arena_.Reserve(statistic, queries);
  }
  reserve(inputs_.lse_bar.has_value() && needs_.p_bar, &lse_bar_, queries, 1);
  reserve(inputs_.lse_bar_dot.has_value() && needs_.second_order, &lse_bar_dot_, queries, 1);
}

absl::Status RowBlock::Allocate() {
  const absl::Status status = arena_.Allocate();
  if (status.ok()) has_bias_.resize(static_cast<std::size_t>(blocking_.block_tiles));
  return status;
}

void RowBlock::ReserveRows(const std::optional<TensorView>& view, bool needed, bool transposed,
                           std::int64_t dim, QueryRows& rows) {
  if (!view.has_value() || !needed) return;
  arena_.Reserve(&rows.rows, blocking_.block_queries, dim);
  if (transposed) arena_.Reserve(&rows.columns, dim, blocking_.block_queries);
}

void RowBlock::ReadRows(const std::optional<TensorView>& view, std::int64_t dim, QueryRows& rows) {
  if (rows.rows == nullptr) return;
  const std::int64_t queries = blocking_.block_queries;
  ReadTile(*view, {block_.batch, block_.head, block_.first_query, block_.queries}, queries, dim,
           rows.rows);
  if (rows.columns == nullptr) return;
  for (std::int64_t query = 0; query < queries; ++query) {
    for (std::int64_t c = 0; c < dim; ++c) {
      rows.columns[c * queries + query] = rows.rows[query * dim + c];
    }
  }
}

const double* RowBlock::ReadKeys(const std::optional<TensorView>& view, std::int64_t tile,
                                 KeyTile& keys) {
  if (!view.has_value()) return nullptr;
  if (keys.tile != tile) {
    const std::int64_t first = tile * blocking_.tile_keys;
    const std::int64_t count = std::min(blocking_.tile_keys, context_.problem.seq_kv - first);
    ReadTile(*view, {block_.batch, block_.head_kv, first, count}, RoundUpToTileUnit(count),
             RoundUpToTileUnit(view->shape[3]), keys.data);
    keys.tile = tile;
  }
  return keys.data;
}

void RowBlock::Begin(const QueryBlock& block) {
  if (block.chain != block_.chain) {
    for (KeyTile* keys : {&k_, &v_, &k_dot_, &v_dot_}) keys->tile = -1;
  }
  block_ = block;
  keep_tile_ = -1;
  const std::int64_t queries = blocking_.block_queries;
  ReadRows(inputs_.q, blocking_.head_dim, q);
  ReadRows(inputs_.q_dot, blocking_.head_dim, q_dot);
  ReadRows(inputs_.o_bar, blocking_.head_dim_v, o_bar);
  ReadRows(inputs_.o_bar_dot, blocking_.head_dim_v, o_bar_dot);
  const auto read_statistic = [&](const std::optional<TensorView>& view, double* statistic) {
    const MatrixPlace place = {block_.batch, block_.head, block_.first_query, block_.queries};
    if (statistic != nullptr) ReadTile(*view, place, queries, 1, statistic);
  };
  read_statistic(inputs_.lse_bar, lse_bar_);
  read_statistic(inputs_.lse_bar_dot, lse_bar_dot_);
  const auto zero = [&](double* rows, std::int64_t dim) {
    if (rows != nullptr) std::fill_n(rows, queries * dim, 0.0);
  };
  zero(o, blocking_.head_dim_v);
  zero(o_dot, blocking_.head_dim_v);
  zero(q_bar, blocking_.head_dim);
  zero(q_bar_dot, blocking_.head_dim);
}

TileSize RowBlock::Size(std::int64_t tile) const {
  const std::int64_t first = tile * blocking_.tile_keys;
  const std::int64_t count = std::min(blocking_.tile_keys, context_.problem.seq_kv - first);
  return {RoundUpToTileUnit(count), blocking_.block_queries};
}

void RowBlock::ScoreTile(std::int64_t tile) {
  const TileSize size = Size(tile);
  const std::int64_t offset = Offset(tile);
  const std::int64_t queries = blocking_.block_queries;
  // matrix = or += keys columns over a tile; how `matrix` is first written is the caller's matter.
  const auto multiply = [&](const double* keys, std::int64_t dim, std::int64_t inner,
                            const double* columns, Into into, double* matrix) {
    if (keys == nullptr || columns == nullptr) {
      if (into == Into::kOverwrite) std::fill_n(matrix + offset, size.count(), 0.0);
      return;
    }
    Multiply(size.keys, queries, inner, {keys, dim}, {columns, queries}, into,
             {matrix + offset, queries});
  };
  const std::int64_t dim = blocking_.head_dim;
  const std::int64_t dim_v = blocking_.head_dim_v;
  const std::int64_t inner = context_.problem.head_dim;
  const std::int64_t inner_v = context_.problem.head_dim_v;

  multiply(K(tile), dim, inner, q.columns, Into::kOverwrite, p);
  const bool has_bias = MakeBiasTile(context_.mod, block_, tile * blocking_.tile_keys, size, bias_);
  has_bias_[tile - block_.first_tile] = has_bias;
  double scale = context_.problem.scale;
  if (cap_t_ != nullptr) {
    double* const w = cap_w_ == nullptr ? nullptr : cap_w_ + offset;
    CapScores(context_.mod.softcap, size, scale, p + offset, cap_t_, w);
    scale = 1.0;
  }
  ScaleScores(size, scale, has_bias ? bias_ : nullptr, p + offset, row_max_);
  if (s_dot != nullptr) {
    multiply(K(tile), dim, inner, q_dot.columns, Into::kOverwrite, s_dot);
    multiply(KDot(tile), dim, inner, q.columns, Into::kAdd, s_dot);
    FinishTangents(tile);
  }
  if (p_bar == nullptr) return;
  const double* keep = Keep(tile);
  multiply(V(tile), dim_v, inner_v, o_bar.columns, Into::kOverwrite, p_bar);
  ApplyKeep(keep, p_bar, tile);
  if (p_bar_dot == nullptr) return;
  multiply(V(tile), dim_v, inner_v, o_bar_dot.columns, Into::kOverwrite, p_bar_dot);
  multiply(VDot(tile), dim_v, inner_v, o_bar.columns, Into::kAdd, p_bar_dot);
  ApplyKeep(keep, p_bar_dot, tile);
}

void RowBlock::FinishTangents(std::int64_t tile) {
  const TileSize size = Size(tile);
  const std::int64_t offset = Offset(tile);
  double scale = context_.problem.scale;
  if (cap_t_ != nullptr) {
    double* const bend = cap_bend_ == nullptr ? nullptr : cap_bend_ + offset;
    CapTangents(context_.mod.softcap, size, scale, cap_t_, cap_w_ + offset, s_dot + offset, bend);
    scale = 1.0;
  }
  if (inputs_.bias_dot.has_value()) {
    AddBiasTangent(*inputs_.bias_dot, block_, tile * blocking_.tile_keys, context_.problem.seq_kv,
                   size, scale, s_dot + offset);
  }
}

bool RowBlock::ScorePass(RunState& state) {
  std::fill_n(row_max_, blocking_.block_queries, -kInfinity);
  for (std::int64_t tile = block_.first_tile; tile < block_.end_tile; ++tile) {
    if (!state.Continue()) return false;
    ScoreTile(tile);
  }
  return Softmax(state);
}

bool RowBlock::Softmax(RunState& state) {
  const std::int64_t queries = blocking_.block_queries;
  for (double* sum : {row_sum_, mu_, delta_, delta_dot_}) std::fill_n(sum, queries, 0.0);
  for (std::int64_t tile = block_.first_tile; tile < block_.end_tile; ++tile) {
    if (!state.Continue()) return false;
    const TileSize size = Size(tile);
    const std::int64_t offset = Offset(tile);
    ExponentiateScores(size, row_max_, p + offset, row_sum_);
    if (s_dot != nullptr) AddWeightedSum(size, p + offset, s_dot + offset, mu_);
    if (p_bar != nullptr) AddWeightedSum(size, p + offset, p_bar + offset, delta_);
  }
  double* const row_factor = row_sum_;
  for (std::int64_t query = 0; query < queries; ++query) {
    lse_[query] = row_max_[query] + std::log(row_sum_[query]);
    // The largest score of a row adds 1 to the sum, so that a sum of 0 means a row without keys.
    row_factor[query] = row_sum_[query] == 0.0 ? 0.0 : 1.0 / row_sum_[query];
    mu_[query] *= s_dot_scale_ * row_factor[query];
    delta_[query] *= row_factor[query];
    if (lse_bar_ != nullptr) delta_[query] -= lse_bar_[query];
  }
  for (std::int64_t tile = block_.first_tile; tile < block_.end_tile; ++tile) {
    const TileSize size = Size(tile);
    const std::int64_t offset = Offset(tile);
    ScaleRows(size, row_factor, p + offset);
    if (p_bar_dot != nullptr) {
      AddDeltaDot(size, p + offset, s_dot_scale_, s_dot + offset, mu_, p_bar + offset,
                  p_bar_dot + offset, delta_dot_);
    }
  }
  if (lse_bar_dot_ != nullptr) {
    for (std::int64_t query = 0; query < queries; ++query) delta_dot_[query] -= lse_bar_dot_[query];
  }
  return true;
}

void RowBlock::Differentiate(std::int64_t tile) {
  const TileSize size = Size(tile);
  const std::int64_t offset = Offset(tile);
  if (p_bar_dot != nullptr) {
    TangentStep(size, p + offset, s_dot_scale_, {mu_, delta_, delta_dot_}, s_dot + offset,
                p_bar + offset, p_bar_dot + offset);
    return;
  }
  if (s_dot != nullptr) CenterAndWeight(size, p + offset, s_dot_scale_, mu_, s_dot + offset);
  if (p_bar != nullptr) CenterAndWeight(size, p + offset, 1.0, delta_, p_bar + offset);
}

void RowBlock::Uncap(std::int64_t tile) {
  if (cap_w_ == nullptr || p_bar == nullptr) return;
  const std::int64_t offset = Offset(tile);
  UncapDerivatives(Size(tile), p + offset, cap_w_ + offset, Tile(cap_bend_, tile), p_bar + offset,
                   p_bar_dot == nullptr ? nullptr : p_bar_dot + offset);
}

const double* RowBlock::Keep(std::int64_t tile) {
  if (keep_ != nullptr && keep_tile_ != tile) {
    const auto plane =
        static_cast<std::uint64_t>(block_.batch * context_.problem.heads_q + block_.head);
    MakeKeepTile(context_.mod.dropout, plane, block_.first_query, tile * blocking_.tile_keys,
                 Size(tile), keep_);
    keep_tile_ = tile;
  }
  return keep_;
}

void RowBlock::ApplyKeep(const double* keep, double* matrix, std::int64_t tile) {
  if (keep == nullptr || matrix == nullptr) return;
  MultiplyElements(Size(tile), keep, matrix + Offset(tile));
}

void RowBlock::AddToRows(const double* weights, std::int64_t tile, const double* keys,
                         std::int64_t dim, double* result) const {
  if (weights == nullptr || keys == nullptr) return;
  const std::int64_t queries = blocking_.block_queries;
  const std::int64_t count = Size(tile).keys;
  const ConstTile a = {weights + Offset(tile), queries};
  if (MustSkipForbidden(tile, count, dim, keys)) {
    AddVisibleTransposed(queries, dim, count, a, {p + Offset(tile), queries}, {keys, dim},
                         {result, dim});
    return;
  }
  MultiplyTransposed(queries, dim, count, a, {keys, dim}, Into::kAdd, {result, dim});
}

void RowBlock::AddToKeys(const double* weights, std::int64_t tile, const double* rows,
                         std::int64_t dim, double* sums) const {
  if (weights == nullptr || rows == nullptr) return;
  const std::int64_t queries = blocking_.block_queries;
  const std::int64_t count = Size(tile).keys;
  const ConstTile a = {weights + Offset(tile), queries};
  if (MustSkipForbidden(tile, queries, dim, rows)) {
    AddVisible(count, dim, block_.queries, a, {p + Offset(tile), queries}, {rows, dim},
               {sums, dim});
    return;
  }
  Multiply(count, dim, block_.queries, a, {rows, dim}, Into::kAdd, {sums, dim});
}

void RowBlock::CopySavedOutput() {
  v_.tile = -1;  // its place holds the rows on their way
  const std::int64_t dim_v = blocking_.head_dim_v;
  for (std::int64_t query = 0; query < block_.queries; query += blocking_.tile_keys) {
    const MatrixPlace place = {block_.batch, block_.head, block_.first_query + query,
                               std::min(blocking_.tile_keys, block_.queries - query)};
    ReadTile(*inputs_.o, place, place.rows, dim_v, v_.data);
    WriteTile(v_.data, dim_v, 1.0, place, *context_.outputs.o);
  }
}

void RowBlock::WriteRows() {
  const MatrixPlace place = {block_.batch, block_.head, block_.first_query, block_.queries};
  const double scale = context_.problem.scale;
  const AttentionOutputs& out = context_.outputs;
  const auto write = [&](const double* rows, std::int64_t dim, double factor,
                         const std::optional<MutableTensorView>& view) {
    if (rows != nullptr && view.has_value()) WriteTile(rows, dim, factor, place, *view);
  };
  if (inputs_.o.has_value() && out.o.has_value()) CopySavedOutput();
  if (inputs_.lse.has_value() && out.lse.has_value()) {
    ReadTile(*inputs_.lse, place, blocking_.block_queries, 1, lse_);
  }
  write(o, blocking_.head_dim_v, 1.0, out.o);
  write(o_dot, blocking_.head_dim_v, 1.0, out.o_dot);
  write(q_bar, blocking_.head_dim, scale, out.q_bar);
  write(q_bar_dot, blocking_.head_dim, scale, out.q_bar_dot);
  write(lse_, 1, 1.0, out.lse);
  write(mu_, 1, 1.0, out.lse_dot);
}

}  // namespace theria::cpu
