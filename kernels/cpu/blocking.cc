#include "kernels/cpu/blocking.h"

#include <algorithm>

#include "kernels/cpu/tile_product.h"

namespace theria::cpu {
namespace {

// A block's score matrices should stay in the second-level cache, which favours few queries where
// there are many keys; the products of a tile want at least 32.
constexpr std::int64_t kMostQueries = 64;
constexpr std::int64_t kFewQueries = 32;
constexpr std::int64_t kManyKeys = 1024;
constexpr std::int64_t kMostTileKeys = 64;

std::int64_t DivideUp(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

// The tiles and keys that the rows of a block see.
void FindKeys(const ScoreMod& mod, const Blocking& blocking, QueryBlock& block) {
  KeyRange any = {mod.seq_kv, 0};
  KeyRange all = {0, mod.seq_kv};
  for (std::int64_t query = 0; query < block.queries; ++query) {
    const KeyRange keys = mod.Keys(block.batch, block.first_query + query);
    all = {std::max(all.begin, keys.begin), std::min(all.end, keys.end)};
    if (keys.begin < keys.end) {
      any = {std::min(any.begin, keys.begin), std::max(any.end, keys.end)};
    }
  }
  block.seen_by_all = all;
  if (any.begin >= any.end) return;
  block.first_tile = any.begin / blocking.tile_keys;
  block.end_tile = DivideUp(any.end, blocking.tile_keys);
}

}  // namespace

Blocking MakeBlocking(const AttentionProblem& problem, const ScoreMod& mod) {
  Blocking blocking;
  if (!problem.has_scores()) return blocking;
  const std::int64_t most_queries = problem.seq_kv > kManyKeys ? kFewQueries : kMostQueries;
  const std::int64_t even_blocks = DivideUp(problem.seq_q, most_queries);
  blocking.block_queries = RoundUpToTileUnit(DivideUp(problem.seq_q, even_blocks));
  blocking.blocks = DivideUp(problem.seq_q, blocking.block_queries);
  blocking.tile_keys = std::min(kMostTileKeys, RoundUpToTileUnit(problem.seq_kv));
  blocking.tiles = DivideUp(problem.seq_kv, blocking.tile_keys);
  blocking.head_dim = RoundUpToTileUnit(std::max<std::int64_t>(problem.head_dim, 1));
  blocking.head_dim_v = RoundUpToTileUnit(std::max<std::int64_t>(problem.head_dim_v, 1));
  for (std::int64_t batch = 0; batch < problem.batch; ++batch) {
    for (std::int64_t first = 0; first < problem.seq_q; first += blocking.block_queries) {
      QueryBlock block;
      block.batch = batch;
      block.first_query = first;
      block.queries = std::min(blocking.block_queries, problem.seq_q - first);
      FindKeys(mod, blocking, block);
      blocking.block_tiles = std::max(blocking.block_tiles, block.end_tile - block.first_tile);
    }
  }
  return blocking;
}

std::int64_t QueryBlockCount(const AttentionProblem& problem, const Blocking& blocking) {
  return problem.batch * problem.heads_q * blocking.blocks;
}

QueryBlock MakeQueryBlock(const AttentionProblem& problem, const ScoreMod& mod,
                          const Blocking& blocking, std::int64_t index) {
  const std::int64_t chain_blocks = problem.group() * blocking.blocks;
  QueryBlock block;
  block.chain = index / chain_blocks;
  block.ordinal = index % chain_blocks;
  block.batch = block.chain / problem.heads_kv;
  block.head_kv = block.chain % problem.heads_kv;
  block.head = block.head_kv * problem.group() + block.ordinal / blocking.blocks;
  block.first_query = block.ordinal % blocking.blocks * blocking.block_queries;
  block.queries = std::min(blocking.block_queries, problem.seq_q - block.first_query);
  FindKeys(mod, blocking, block);
  return block;
}

}  // namespace theria::cpu
