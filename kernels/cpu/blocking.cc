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

}  // namespace

Blocking MakeBlocking(const AttentionProblem& problem, const ScoreMod& mod) {
  Blocking blocking;
  const std::int64_t most_queries = problem.seq_kv > kManyKeys ? kFewQueries : kMostQueries;
  const std::int64_t even_blocks = DivideUp(problem.seq_q, most_queries);
  blocking.block_queries = RoundUpToTileUnit(DivideUp(problem.seq_q, even_blocks));
  blocking.blocks = DivideUp(problem.seq_q, blocking.block_queries);
  blocking.tile_keys = std::min(kMostTileKeys, RoundUpToTileUnit(problem.seq_kv));
  blocking.tiles = DivideUp(problem.seq_kv, blocking.tile_keys);
  blocking.block_tiles = blocking.tiles;
  if (mod.window_left < problem.seq_kv && mod.window_right < problem.seq_kv) {
    const std::int64_t keys = mod.window_left + mod.window_right + blocking.block_queries;
    blocking.block_tiles = std::min(blocking.tiles, keys / blocking.tile_keys + 2);
  }
  blocking.head_dim = RoundUpToTileUnit(problem.head_dim);
  blocking.head_dim_v = RoundUpToTileUnit(problem.head_dim_v);
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

  // Both ends of the keys that a row sees grow with the row.
  const std::int64_t last_query = block.first_query + block.queries - 1;
  const std::int64_t begin = mod.Keys(block.batch, block.first_query).begin;
  const std::int64_t end = mod.Keys(block.batch, last_query).end;
  if (begin < end) {
    block.first_tile = begin / blocking.tile_keys;
    block.end_tile = DivideUp(end, blocking.tile_keys);
  }
  return block;
}

}  // namespace theria::cpu
