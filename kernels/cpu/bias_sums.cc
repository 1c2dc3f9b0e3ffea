#include "kernels/cpu/bias_sums.h"

#include <algorithm>
#include <utility>

#include "kernels/cpu/convert.h"

namespace theria::cpu {

absl::StatusOr<std::unique_ptr<BiasSums>> BiasSums::Make(const RunContext& context) {
  if (!context.outputs.bias_bar.has_value() && !context.outputs.bias_bar_dot.has_value()) {
    return nullptr;
  }
  std::unique_ptr<BiasSums> bias(new BiasSums(context));
  OrderedSums::Size size = {1, 1, context.blocking.tiles, 0};
  for (int axis = 0; axis < 3; ++axis) {
    (bias->kept_[axis] ? size.chains : size.chain_blocks) *= bias->extents_[axis];
  }
  for (const std::optional<Output>& output : bias->outputs_) {
    if (output.has_value()) size.tile_elements += bias->PartElements();
  }
  absl::StatusOr<std::unique_ptr<OrderedSums>> sums = OrderedSums::Make(size);
  if (!sums.ok()) return sums.status();
  bias->sums_ = *std::move(sums);
  return bias;
}

BiasSums::BiasSums(const RunContext& context)
    : context_(context),
      blocking_(context.blocking),
      extents_{context.problem.batch, context.problem.heads_q, context.blocking.blocks} {
  const AttentionProblem& problem = context.problem;
  const MutableTensorView& bias = *problem.bias;
  const std::int64_t full[kMaxRank] = {problem.batch, problem.heads_q, problem.seq_q,
                                       problem.seq_kv};
  for (int axis = 0; axis < kMaxRank; ++axis) {
    const int own = axis - (kMaxRank - bias.rank);
    kept_[axis] = own >= 0 && bias.shape[own] == full[axis];
  }
  sum_queries_ = kept_[2] ? blocking_.block_queries : 1;
  sum_keys_ = kept_[3] ? blocking_.tile_keys : 1;
  const AttentionOutputs& out = context.outputs;
  if (out.bias_bar.has_value()) outputs_[0] = {*out.bias_bar, BroadcastStrides(*out.bias_bar)};
  if (out.bias_bar_dot.has_value()) {
    outputs_[1] = {*out.bias_bar_dot, BroadcastStrides(*out.bias_bar_dot)};
  }
}

std::int64_t BiasSums::Index(const QueryBlock& block, bool kept) const {
  const std::int64_t at[] = {block.batch, block.head, block.first_query / blocking_.block_queries};
  std::int64_t index = 0;
  for (int axis = 0; axis < 3; ++axis) {
    if (kept_[axis] == kept) index = index * extents_[axis] + at[axis];
  }
  return index;
}

absl::Status BiasSums::Open(const QueryBlock& block) {
  return Ordinal(block) == 0 ? sums_->Open(Group(block)) : absl::OkStatus();
}

void BiasSums::Add(const QueryBlock& block, std::int64_t tile, const double* s_bar,
                   const double* s_bar_dot, bool stopped) {
  const std::int64_t group = Group(block);
  const std::int64_t ordinal = Ordinal(block);
  double* sums = sums_->Enter(group, ordinal, tile);
  if (sums != nullptr && !stopped) {
    const double* const added[] = {s_bar, s_bar_dot};
    for (int part = 0; part < 2; ++part) {
      if (!outputs_[part].has_value()) continue;
      if (added[part] != nullptr) AddTile(block, tile, added[part], sums);
      if (sums_->IsLast(ordinal)) Write(block, tile, sums, part);
      sums += PartElements();
    }
  }
  sums_->Leave(group, ordinal, tile);
}

void BiasSums::AddTile(const QueryBlock& block, std::int64_t tile, const double* s,
                       double* sums) const {
  const std::int64_t keys =
      std::min(blocking_.tile_keys, context_.problem.seq_kv - tile * blocking_.tile_keys);
  for (std::int64_t key = 0; key < keys; ++key) {
    double* const row = sums + (kept_[3] ? key * sum_queries_ : 0);
    const double* const from = s + key * blocking_.block_queries;
    for (std::int64_t query = 0; query < block.queries; ++query) {
      row[kept_[2] ? query : 0] += from[query];
    }
  }
}

void BiasSums::Write(const QueryBlock& block, std::int64_t tile, const double* sums,
                     int part) const {
  if (!kept_[3] && tile != blocking_.tiles - 1)
    return;  // sums over all tiles, written with the last
  const Output& output = *outputs_[part];
  const std::int64_t first_key = kept_[3] ? tile * blocking_.tile_keys : 0;
  const std::int64_t keys =
      kept_[3] ? std::min(blocking_.tile_keys, context_.problem.seq_kv - first_key) : 1;
  const std::int64_t queries = kept_[2] ? block.queries : 1;
  const std::int64_t parts = (outputs_[0].has_value() ? 1 : 0) + (outputs_[1].has_value() ? 1 : 0);
  const auto item_bytes = static_cast<std::int64_t>(ItemSizeBytes(output.view.dtype));
  char* const first = static_cast<char*>(output.view.data) +
                      (block.batch * output.strides[0] + block.head * output.strides[1] +
                       block.first_query * output.strides[2] + first_key * output.strides[3]) *
                          item_bytes;
  for (std::int64_t key = 0; key < keys; ++key) {
    for (std::int64_t query = 0; query < queries; ++query) {
      double sum = sums[key * sum_queries_ + query];
      if (!kept_[3]) {
        // The tiles' sums lie one behind the other, this one last.
        sum = 0.0;
        for (std::int64_t from = 0; from < blocking_.tiles; ++from) {
          sum += sums[(from - tile) * parts * PartElements() + query];
        }
      }
      WriteElement(output.view.dtype, sum,
                   first + (query * output.strides[2] + key * output.strides[3]) * item_bytes);
    }
  }
}

}  // namespace theria::cpu
