#include "kernels/cpu/blocking.h"

#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "kernels/cpu/tile_product.h"

namespace theria::cpu {
namespace {

AttentionProblem Problem(std::int64_t heads_q, std::int64_t heads_kv, std::int64_t seq_q,
                         std::int64_t seq_kv) {
  AttentionProblem problem;
  problem.batch = 2;
  problem.heads_q = heads_q;
  problem.heads_kv = heads_kv;
  problem.seq_q = seq_q;
  problem.seq_kv = seq_kv;
  problem.head_dim = 13;
  problem.head_dim_v = 64;
  return problem;
}

TEST(BlockingTest, BlocksCoverEveryQueryOnce) {
  for (const std::int64_t seq_q : {1, 8, 16, 63, 64, 65, 197, 1000}) {
    for (const std::int64_t seq_kv : {1, 64, 5000}) {
      const AttentionProblem problem = Problem(6, 3, seq_q, seq_kv);
      const ScoreMod mod = MakeScoreMod(problem, {});
      const Blocking blocking = MakeBlocking(problem, mod);
      EXPECT_EQ(blocking.head_dim, 16);
      EXPECT_EQ(blocking.head_dim_v, 64);
      EXPECT_EQ(blocking.block_queries % kTileUnit, 0);
      EXPECT_GE(blocking.tiles * blocking.tile_keys, seq_kv);
      std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t>> seen;
      for (std::int64_t index = 0; index < QueryBlockCount(problem, blocking); ++index) {
        const QueryBlock block = MakeQueryBlock(problem, mod, blocking, index);
        EXPECT_EQ(block.head_kv, block.head / 2);
        EXPECT_EQ(block.chain, block.batch * 3 + block.head_kv);
        EXPECT_GE(block.queries, 1);
        EXPECT_LE(block.queries, blocking.block_queries);
        EXPECT_EQ(block.first_tile, 0);
        EXPECT_EQ(block.end_tile, blocking.tiles);
        for (std::int64_t q = 0; q < block.queries; ++q) {
          EXPECT_TRUE(seen.emplace(block.batch, block.head, block.first_query + q).second);
        }
      }
      EXPECT_EQ(seen.size(), static_cast<std::size_t>(2 * 6 * seq_q));
    }
  }
}

// All keys that a row sees lie in its block's tiles, and these fit the workspace.
TEST(BlockingTest, TilesFollowTheWindow) {
  for (const std::int64_t left : {0, 5, 100, 1000}) {
    for (const std::int64_t right : {0, 7, 300}) {
      const AttentionProblem problem = Problem(1, 1, 700, 400);
      ScoreMod mod = MakeScoreMod(problem, {});
      mod.window_left = left;
      mod.window_right = right;
      const Blocking blocking = MakeBlocking(problem, mod);
      for (std::int64_t index = 0; index < QueryBlockCount(problem, blocking); ++index) {
        const QueryBlock block = MakeQueryBlock(problem, mod, blocking, index);
        EXPECT_LE(block.end_tile - block.first_tile, blocking.block_tiles);
        for (std::int64_t q = 0; q < block.queries; ++q) {
          const KeyRange keys = mod.Keys(block.batch, block.first_query + q);
          if (keys.begin >= keys.end) continue;
          EXPECT_LE(block.first_tile * blocking.tile_keys, keys.begin);
          EXPECT_GE(block.end_tile * blocking.tile_keys, keys.end);
        }
      }
    }
  }
}

// Blocks visit the tiles of their documents and of the keys that count, and no others.
TEST(BlockingTest, TilesFollowLengthsAndDocuments) {
  AttentionProblem problem = Problem(1, 1, 700, 900);
  const std::int32_t lengths[] = {130, 0};
  ScoreMod mod = MakeScoreMod(problem, {});
  mod.kv_lengths = {lengths, 1};
  Blocking blocking = MakeBlocking(problem, mod);
  EXPECT_EQ(blocking.block_tiles, 3);
  for (std::int64_t index = 0; index < QueryBlockCount(problem, blocking); ++index) {
    const QueryBlock block = MakeQueryBlock(problem, mod, blocking, index);
    EXPECT_EQ(block.end_tile - block.first_tile, block.batch == 0 ? 3 : 0);
  }

  problem.batch = 1;
  const std::int32_t of_q[] = {0, 320, 320, 640, 700};
  const std::int32_t of_kv[] = {0, 256, 512, 768, 900};
  mod = MakeScoreMod(problem, {});
  mod.cu_seqlens_q = {of_q, 1};
  mod.cu_seqlens_kv = {of_kv, 1};
  mod.documents = 4;
  blocking = MakeBlocking(problem, mod);
  std::int64_t visited = 0;
  for (std::int64_t index = 0; index < QueryBlockCount(problem, blocking); ++index) {
    const QueryBlock block = MakeQueryBlock(problem, mod, blocking, index);
    EXPECT_LE(block.end_tile - block.first_tile, blocking.block_tiles);
    visited += block.end_tile - block.first_tile;
    for (std::int64_t q = 0; q < block.queries; ++q) {
      const KeyRange keys = mod.Keys(0, block.first_query + q);
      EXPECT_LE(block.first_tile * blocking.tile_keys, keys.begin);
      EXPECT_GE(block.end_tile * blocking.tile_keys, keys.end);
      EXPECT_LE(keys.begin, block.seen_by_all.begin);
      EXPECT_GE(keys.end, block.seen_by_all.end);
    }
  }
  EXPECT_LT(visited, QueryBlockCount(problem, blocking) * blocking.tiles / 2);
}

TEST(BlockingTest, NothingToCutWithoutScores) {
  AttentionProblem problem = Problem(2, 1, 0, 5);
  EXPECT_EQ(QueryBlockCount(problem, MakeBlocking(problem, MakeScoreMod(problem, {}))), 0);
}

}  // namespace
}  // namespace theria::cpu
