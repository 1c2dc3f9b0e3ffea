#include "kernels/cpu/run.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <memory>
#include <optional>

#include "kernels/cpu/bias_sums.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/forward.h"
#include "kernels/cpu/hvp.h"
#include "kernels/cpu/jvp.h"
#include "kernels/cpu/ordered_sums.h"
#include "kernels/cpu/output_pass.h"
#include "kernels/cpu/vjp.h"

namespace theria::cpu {
namespace {

// Waking a thread costs about as much as this much arithmetic.
constexpr double kFlopsWorthSharing = 2e6;

const OutputPass& PassFor(Operation operation) {
  static const ForwardPass forward;
  static const VjpPass vjp;
  static const JvpPass jvp;
  static const HvpPass hvp;
  switch (operation) {
    case Operation::kForward:
      return forward;
    case Operation::kVjp:
      return vjp;
    case Operation::kJvp:
      return jvp;
    case Operation::kHvp:
      return hvp;
  }
  return forward;
}

// The state that the threads of one run share.
class Run {
 public:
  Run(const OutputPass& pass, const RunContext& context, const Interrupt& interrupt)
      : pass_(pass),
        context_(context),
        blocking_(context.blocking),
        needs_(pass.NeedsFor(context.inputs, context.outputs)),
        state_(interrupt) {}

  absl::Status Execute(ThreadPool& pool) {
    blocks_ = QueryBlockCount(context_.problem, blocking_);
    if (needs_.AnyKeys()) {
      const OrderedSums::Size size = {
          context_.problem.batch * context_.problem.heads_kv,
          context_.problem.group() * blocking_.blocks, blocking_.tiles,
          Sums(needs_.k_bar, needs_.k_bar_dot) * blocking_.tile_keys * blocking_.head_dim +
              Sums(needs_.v_bar, needs_.v_bar_dot) * blocking_.tile_keys * blocking_.head_dim_v};
      absl::StatusOr<std::unique_ptr<OrderedSums>> sums = OrderedSums::Make(size);
      if (!sums.ok()) return sums.status();
      sums_ = *std::move(sums);
    }
    absl::StatusOr<std::unique_ptr<BiasSums>> bias_sums = BiasSums::Make(context_);
    if (!bias_sums.ok()) return bias_sums.status();
    bias_sums_ = *std::move(bias_sums);
    const bool share =
        AttentionFlops(context_.problem, context_.inputs.options) >= kFlopsWorthSharing;
    const std::int64_t helpers = share ? std::min<std::int64_t>(blocks_ - 1, pool.threads()) : 0;
    pool.Run(static_cast<int>(helpers), [this](ThreadPool::Seat& seat) { Work(seat); });
    return state_.status();
  }

 private:
  static std::int64_t Sums(bool primal, bool tangent) {
    return std::int64_t{primal} + std::int64_t{tangent};
  }

  // A thread's part: blocks, one after the other, until none is left.
  void Work(ThreadPool::Seat& seat) {
    RowBlock rows(context_, needs_);
    if (const absl::Status status = rows.Allocate(); !status.ok()) return state_.Stop(status);
    while (!state_.stopped() && !seat.ShouldLeave()) {
      const std::int64_t index = next_block_.fetch_add(1);
      if (index >= blocks_) return;
      const QueryBlock block = MakeQueryBlock(context_.problem, context_.mod, blocking_, index);
      bool going = OpenSums(block);
      if (going) {
        rows.Begin(block);
        going = rows.ScorePass(state_);
      }
      AddTiles(block, going, rows);
      if (going && !state_.stopped()) rows.WriteRows();
    }
  }

  // Where sums begin with this block, makes them.
  bool OpenSums(const QueryBlock& block) {
    absl::Status status;
    if (sums_ != nullptr && block.ordinal == 0) status = sums_->Open(block.chain);
    if (bias_sums_ != nullptr) status.Update(bias_sums_->Open(block));
    if (!status.ok()) state_.Stop(status);
    return status.ok();
  }

  // The second time over the tiles. Once stopped it only passes the turns on. A block waits for
  // blocks of lower indices only, which threads have taken before it, so that no two wait for each
  // other.
  void AddTiles(const QueryBlock& block, bool going, RowBlock& rows) {
    if (!needs_.AnyRows() && sums_ == nullptr && bias_sums_ == nullptr) return;
    for (std::int64_t tile = 0; tile < blocking_.tiles; ++tile) {
      const bool visible = block.first_tile <= tile && tile < block.end_tile;
      going = going && state_.Continue();
      if (going && visible) rows.Differentiate(tile);
      if (bias_sums_ != nullptr) {
        const bool adds = going && visible;
        bias_sums_->Add(block, tile, adds ? rows.Tile(rows.p_bar, tile) : nullptr,
                        adds ? rows.Tile(rows.p_bar_dot, tile) : nullptr,
                        !going || state_.stopped());
      }
      if (going && visible) {
        rows.Uncap(tile);
        pass_.AddToRows(tile, blocking_, rows);
      }
      if (sums_ == nullptr) continue;
      double* const tile_sums = sums_->Enter(block.chain, block.ordinal, tile);
      if (going && !state_.stopped() && tile_sums != nullptr) {
        const KeySums sums = Split(tile_sums);
        if (visible) pass_.AddToKeys(tile, blocking_, rows, sums);
        if (sums_->IsLast(block.ordinal)) WriteKeys(block, tile, sums);
      }
      sums_->Leave(block.chain, block.ordinal, tile);
    }
  }

  KeySums Split(double* sums) const {
    const auto take = [&](bool needed, std::int64_t dim) {
      double* const part = needed ? sums : nullptr;
      if (needed) sums += blocking_.tile_keys * dim;
      return part;
    };
    KeySums split;
    split.k_bar = take(needs_.k_bar, blocking_.head_dim);
    split.v_bar = take(needs_.v_bar, blocking_.head_dim_v);
    split.k_bar_dot = take(needs_.k_bar_dot, blocking_.head_dim);
    split.v_bar_dot = take(needs_.v_bar_dot, blocking_.head_dim_v);
    return split;
  }

  void WriteKeys(const QueryBlock& block, std::int64_t tile, const KeySums& sums) const {
    const std::int64_t first = tile * blocking_.tile_keys;
    const MatrixPlace place = {block.batch, block.head_kv, first,
                               std::min(blocking_.tile_keys, context_.problem.seq_kv - first)};
    const double scale = context_.problem.scale;
    const AttentionOutputs& out = context_.outputs;
    const auto write = [&](const double* part, std::int64_t dim, double factor,
                           const std::optional<MutableTensorView>& view) {
      if (part != nullptr) WriteTile(part, dim, factor, place, *view);
    };
    write(sums.k_bar, blocking_.head_dim, scale, out.k_bar);
    write(sums.v_bar, blocking_.head_dim_v, 1.0, out.v_bar);
    write(sums.k_bar_dot, blocking_.head_dim, scale, out.k_bar_dot);
    write(sums.v_bar_dot, blocking_.head_dim_v, 1.0, out.v_bar_dot);
  }

  const OutputPass& pass_;
  const RunContext& context_;
  const Blocking& blocking_;
  const Needs needs_;
  RunState state_;
  std::int64_t blocks_ = 0;
  std::unique_ptr<OrderedSums> sums_;
  std::unique_ptr<BiasSums> bias_sums_;
  std::atomic<std::int64_t> next_block_{0};
};

void Fill(const MutableTensorView& view, double value) {
  const std::array<std::int64_t, kMaxRank> strides = BroadcastStrides(view);
  const auto item_bytes = static_cast<std::int64_t>(ItemSizeBytes(view.dtype));
  std::int64_t shape[kMaxRank] = {1, 1, 1, 1};
  for (int axis = 0; axis < view.rank; ++axis)
    shape[kMaxRank - view.rank + axis] = view.shape[axis];
  for (std::int64_t flat = 0; flat < view.NumElements(); ++flat) {
    std::int64_t element = 0;
    std::int64_t rest = flat;
    for (int axis = kMaxRank - 1; axis >= 0; --axis) {
      element += rest % shape[axis] * strides[axis];
      rest /= shape[axis];
    }
    WriteElement(view.dtype, value, static_cast<char*>(view.data) + element * item_bytes);
  }
}

// The outputs of a problem without a score.
void FillOutputs(const AttentionOutputs& outputs) {
  for (const OutputField& field : kOutputFields) {
    const std::optional<MutableTensorView>& view = outputs.*field.member;
    if (!view.has_value()) continue;
    const bool is_lse = field.member == &AttentionOutputs::lse;
    Fill(*view, is_lse ? -std::numeric_limits<double>::infinity() : 0.0);
  }
}

}  // namespace

absl::Status RunOperation(const RunContext& context, const Interrupt& interrupt, ThreadPool& pool) {
  if (!context.problem.has_scores()) {
    FillOutputs(context.outputs);
    return interrupt.Check();
  }
  return Run(PassFor(context.problem.operation), context, interrupt).Execute(pool);
}

}  // namespace theria::cpu
