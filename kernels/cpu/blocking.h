#ifndef THERIA_KERNELS_CPU_BLOCKING_H_
#define THERIA_KERNELS_CPU_BLOCKING_H_

#include <cstdint>

#include "kernels/api/attention.h"

// How a problem is cut: query blocks, each the work of one thread at a time, and key tiles within
// them. A pure function of the problem, never of the machine or of the number of threads.

namespace theria::cpu {

struct Blocking {
  std::int64_t block_queries = 0;  // padded to the tile unit
  std::int64_t blocks = 0;         // query blocks of a head
  std::int64_t tile_keys = 0;      // padded to the tile unit
  std::int64_t tiles = 0;          // key tiles of a head
  std::int64_t block_tiles = 0;    // most key tiles that one query block sees
  std::int64_t head_dim = 0;       // padded to the tile unit
  std::int64_t head_dim_v = 0;
};

// Without a score there is nothing to cut.
Blocking MakeBlocking(const AttentionProblem& problem, const ScoreMod& mod);

// A unit of work: the queries of one block of one head. The blocks of all query heads that share a
// key head form a chain; `ordinal` counts along it.
struct QueryBlock {
  std::int64_t batch = 0;
  std::int64_t head = 0;
  std::int64_t head_kv = 0;
  std::int64_t chain = 0;
  std::int64_t ordinal = 0;
  std::int64_t first_query = 0;
  std::int64_t queries = 0;
  std::int64_t first_tile = 0;  // the key tiles that any row sees: first <= t < end
  std::int64_t end_tile = 0;
  KeyRange seen_by_all = {0, 0};  // the keys that every row sees
};

std::int64_t QueryBlockCount(const AttentionProblem& problem, const Blocking& blocking);

// REQUIRES: 0 <= index < QueryBlockCount. Successive indices stay in one chain as long as possible.
QueryBlock MakeQueryBlock(const AttentionProblem& problem, const ScoreMod& mod,
                          const Blocking& blocking, std::int64_t index);

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_BLOCKING_H_
