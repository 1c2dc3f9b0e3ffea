#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_VJP_ONE_PASS_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_VJP_ONE_PASS_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/sm90a/products.cuh"
#include "kernels/cuda/attention/sm90a/q_bar_sum.cuh"
#include "kernels/cuda/attention/sm90a/ring.cuh"
#include "kernels/cuda/attention/sm90a/tile_queue.cuh"
#include "kernels/cuda/attention/sm90a/tiling.h"
#include "kernels/cuda/attention/statistics_tile.cuh"
#include "kernels/cuda/primitives/sm90a/store_matrix.cuh"

// The VJP as one key-stationary kernel of five products. q_bar is added to a float32 sum in global
// memory, in an order that changes from run to run; k_bar and v_bar have the same bits every time.
//
// A block owns a tile of 128 keys (tile_kv) of one key head. Tiles of queries (tile_q) of all query
// heads of the group stream past.
//
//   warpgroup 0   Warp 0: the TMA producer. Warps 1 and 2: one thread each adds the q_bar parts of
//                 consumer 1 and 2 from shared to global memory. Warp 3 writes row statistics
//                 beside the queries. 24 registers a thread.
//   warpgroup 1   Keys 0 to 63 of the tile.  } The consumers, 240 registers a thread.
//   warpgroup 2   Keys 64 to 127.            }
//
// Step i of a consumer warpgroup. What stands right of products runs while they do:
//   q_bar part(i-1) = S_bar(i-1) k
//   S(i)^T = k q(i)^T                     q_bar part(i-1) to shared memory
//   k_bar += S_bar(i-1)^T q(i-1)          P(i) = exp2(S(i) - normaliser)
//   P_bar(i)^T = v o_bar(i)^T             P(i) to fragments (tile_q 128: P(i) too, its second half)
//   v_bar += P(i)^T o_bar(i)              S_bar(i) = P(i) (P_bar(i) - delta), to fragments and to
//                                         shared memory
//   barrier of both consumer warpgroups: S_bar(i) is complete
// S^T and P_bar^T have keys as rows, so that P and S_bar are left operands from registers. The
// q_bar part reads S_bar from shared memory, all 128 keys of it: each warpgroup computes half of
// its rows (tile_q 128) or of its columns (tile_q 64). With tile_q 128, v_bar's product comes in
// two halves, so that only half of P's fragments are live at once.
//
// Registers of a consumer thread: k_bar and v_bar dim / 2 each, S and P_bar tile_q / 2 each, the
// q_bar part 32 (16 at dim 64, tile_q 64), S_bar's fragments tile_q / 4. At most live at once, of
// 240: 208 to 224 at dim 64, tile_q 128 (k_bar, v_bar, S, P_bar, P's fragments) and 208 at dim 128,
// tile_q 64 (k_bar, v_bar, S, S_bar's fragments, the q_bar part). So what else lives from step to
// step is kept in uniform registers or computed anew.
//
// Shared memory, KiB                dim 64, tile_q 128    dim 128, tile_q 64
//   k, v                            32                    64
//   q with row statistics, stages   3 x 18                3 x 17
//   o_bar, stages                   2 x 16                2 x 16
//   S_bar, buffers                  2 x 32                2 x 16
//   q_bar parts, float32            32                    32
//   barriers and alignment          2                     2
// Two buffers of S_bar let a warpgroup write S_bar(i) while the other still reads S_bar(i-1): both
// had finished with S_bar(i-2) before the barrier of step i-1.
// Where TileConfig::adds_registers, the parts are added from registers and take no shared memory.

namespace theria::cuda::sm90a {

// The key tile of a block. Heads are taken in sections of about kSectionBlocks blocks, so that what
// runs at once stays in L2. Within a section the first key tiles of all heads start first: with
// causal masks they are the longest.
__device__ __forceinline__ BlockWork FindWorkBySections(const AttentionParams& params, int tiles) {
  constexpr int kSectionBlocks = 256;
  const unsigned heads = params.batch * params.heads_kv;
  const unsigned section_heads = max(kSectionBlocks / tiles, 1);
  const unsigned section = blockIdx.x / (section_heads * tiles);
  const unsigned within = blockIdx.x % (section_heads * tiles);
  const unsigned first = section * section_heads;
  const unsigned count = min(section_heads, heads - first);
  const unsigned plane = first + within % count;
  BlockWork work = {};
  work.batch = static_cast<int>(plane / params.heads_kv);
  work.head = static_cast<int>(plane % params.heads_kv);
  work.tile = static_cast<int>(within / count);
  return work;
}

// The barriers between a consumer warpgroup and the thread that adds its q_bar parts.
struct QBarBarriers {
  std::uint32_t full, empty;

  // Beside those of SharedTiles.
  static __device__ __forceinline__ QBarBarriers Of(std::uint32_t base, int part) {
    return {base + 512 + part * 16, base + 512 + part * 16 + 8};
  }
};

// Writes the shifts and deltas of each tile of queries beside it; by one warp. Lane l % 4 of a
// consumer warp needs columns 8 b + 2 (l % 4) and the next of all blocks b: those of two blocks lie
// side by side.
template <typename Tiling, typename Ring>
__device__ __forceinline__ void WriteColumnStatistics(const AttentionParams& params,
                                                      const BlockWork& work, Ring& ring,
                                                      const Steps& steps) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::uint32_t at =
      (lane / 16 * 16 + lane % 8 / 2 * 4 + lane / 8 % 2 * 2 + lane % 2) * sizeof(float);
  for (int of_group = 0; of_group < params.group; ++of_group) {
    const int head = work.head * params.group + of_group;
    const auto* rows = StatisticsOfHead<float>(params, work.batch, head) + lane;
    for (int step = 0; step < steps.count; ++step) {
      const int column = steps.first + step * Tiling::kColumns;
      float2 values[Tiling::kColumns / 32];
#pragma unroll
      for (int part = 0; part < Tiling::kColumns / 32; ++part) {
        values[part] = *reinterpret_cast<const float2*>(rows + column + part * 32);
      }
      ring.WaitUntilEmpty();
      const std::uint32_t to = ring.tile() + Tiling::kStatisticsOffset + at;
#pragma unroll
      for (int part = 0; part < Tiling::kColumns / 32; ++part) {
        StoreWord(to + part * 128, __float_as_uint(values[part].x));
        StoreWord(to + Tiling::kColumns * 4 + part * 128, __float_as_uint(values[part].y));
      }
      Arrive(ring.full());
      ring.Advance();
    }
  }
}

// Calls visit(block, side, value) for a thread's columns of kBlocks blocks, whose values lie at
// `values` as WriteColumnStatistics has them.
template <int kBlocks, typename Visit>
__device__ __forceinline__ void ForEachColumnValue(std::uint32_t values, const Visit& visit) {
  values += ThreadIndex() % 4 * 16;
#pragma unroll
  for (int block = 0; block < kBlocks; block += 2) {
    std::uint32_t words[4];
    sm80::LoadShared4(values + block * 32, words);
#pragma unroll
    for (int i = 0; i < 4; ++i) visit(block + i / 2, i % 2, __uint_as_float(words[i]));
  }
}

// Adds one consumer's q_bar parts to global memory as they arrive in shared memory; by one thread.
template <typename Tiling>
__device__ __forceinline__ void AddQBarParts(const AttentionParams& params, const BlockWork& work,
                                             std::uint32_t source, const QBarBarriers& barriers,
                                             int part, const Steps& steps) {
  std::uint32_t phase = 0;
  for (int of_group = 0; of_group < params.group; ++of_group) {
    const int head = work.head * params.group + of_group;
    float* destination = QBarPartOf<Tiling>(params, work.batch, head, steps.first, part);
    for (int step = 0; step < steps.count; ++step) {
      WaitForPhase(barriers.full, phase);
      phase ^= 1;
      AddFloats(destination, source, Tiling::kQBarPartBytes);
      CommitAdditions();
      destination += Tiling::kColumns * Tiling::kQBarSumColumns;
      WaitForAdditionsToRead<0>();
      Arrive(barriers.empty);
    }
  }
}

// Keeps ptxas from moving the exponentials below the wait that follows, where no product would run
// beside them. Probabilities have no sign bit: the instruction that needs them all is never
// executed, and would do no harm.
template <int kBlocks>
__device__ __forceinline__ void FinishBeforeWait(const float (&p)[1][kBlocks][4]) {
  std::uint32_t bits = 0;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int e = 0; e < 4; ++e) bits |= __float_as_uint(p[0][block][e]);
  }
  asm volatile("{\n.reg .pred p;\nsetp.lt.s32 p, %0, 0;\n@p nanosleep.u32 1;\n}" ::"r"(bits)
               : "memory");
}

template <typename Tiling>
__global__ void __launch_bounds__(Tiling::kThreads, 1)
    VjpKernel(const __grid_constant__ Params all) {
  using Mma = typename Tiling::Mma;
  using Part = QBarPart<Tiling>;
  constexpr int kBlocks = Tiling::kColumns / 8;
  constexpr int kParts = kBlocks > 8 ? 2 : 1;
  constexpr int kPartBlocks = kBlocks / kParts;
  const AttentionParams& params = all.attention;

  extern __shared__ unsigned char shared_memory[];
  const std::uint32_t base = (sm80::SharedAddress(shared_memory) + 1023u) & ~1023u;
  if (threadIdx.x == 0) {
    for (int part = 0; part < Tiling::kConsumers; ++part) {
      const QBarBarriers barriers = QBarBarriers::Of(base, part);
      InitBarrier(barriers.full, 128);
      InitBarrier(barriers.empty, 1);
    }
  }
  auto tiles = SharedTiles<Tiling>::Make(shared_memory);

  const int row_tiles = (params.seq_kv + Tiling::kRows - 1) / Tiling::kRows;
  const BlockWork work = FindWorkBySections(params, row_tiles);
  const int row = work.tile * Tiling::kRows;
  const KeySpan queries = QueriesOfKeys(params, row, min(row + Tiling::kRows, params.seq_kv) - 1);
  const Steps of_head = Steps::OfKeys<Tiling>(params, row);
  const int warpgroup = WarpgroupIndex();

  if (warpgroup == 0) {
    ReleaseRegisters<Tiling::kCopyRegisters>();
    const int warp = Uniform(static_cast<int>(threadIdx.x) / 32);
    if (warp == 3) WriteColumnStatistics<Tiling>(params, work, tiles.scores, of_head);
    if (threadIdx.x % 32 != 0 || warp == 3) return;
    if (warp > 0) {
      const int part = warp - 1;
      if (Tiling::kConfig.adds_registers) return;
      AddQBarParts<Tiling>(params, work, base + Tiling::kQBarOffset + part * Tiling::kQBarPartBytes,
                           QBarBarriers::Of(base, part), part, of_head);
      return;
    }
    ArriveExpecting(tiles.rows.full(), 2 * Tiling::kRowTileBytes);
    LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile(), all.k, tiles.rows.full(), work.batch,
                                          work.head, row);
    LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile() + Tiling::kRowTileBytes, all.v,
                                          tiles.rows.full(), work.batch, work.head, row);
    for (int of_group = 0; of_group < params.group; ++of_group) {
      const int head = work.head * params.group + of_group;
      for (int step = 0; step < of_head.count; ++step) {
        const int column = of_head.first + step * Tiling::kColumns;
        tiles.scores.BeginFill(Tiling::kScoreCopyBytes);
        LoadMovingTile<Tiling>(tiles.scores, 0, all.q, work.batch, head, column);
        tiles.scores.Advance();
        tiles.values.BeginFill(Tiling::kValueStageBytes);
        LoadMovingTile<Tiling>(tiles.values, 0, all.o_bar, work.batch, head, column);
        tiles.values.Advance();
      }
    }
    return;
  }

  AcquireRegisters<Tiling::kComputeRegisters>();
  const int consumer = warpgroup - 1;
  const std::uint32_t k = tiles.rows.tile() + consumer * 64 * kPanelRowBytes;
  const std::uint32_t v = k + Tiling::kRowTileBytes;
  const float log2_scale = Log2Scale<false>(static_cast<float>(params.scale));
  const int steps = Uniform(of_head.count * params.group);
  const bool unfolded = HasUnfoldedRows(params, work.batch, work.head);
  // Tiles that start at one of whole_count queries from whole_begin on need no masks.
  const int whole_begin = Uniform(queries.full_begin);
  const bool whole_rows = row + Tiling::kRows <= params.seq_kv;
  const int whole_count = Uniform(
      whole_rows ? max(queries.full_end - Tiling::kColumns + 1 - queries.full_begin, 0) : 0);
  const int column_end = Uniform(queries.end);
  const int column_begin = Uniform(of_head.first);

  // Operands of the q_bar part: the queries and the columns of k that are this warpgroup's.
  const int part_row = Part::Row(consumer);
  const int part_column = Part::Column(consumer);
  const std::uint32_t score_bar = base + Tiling::kScoreBarOffset;
  const std::uint32_t part_queries = score_bar + part_row / 64 * Tiling::kRowPanelBytes;
  const std::uint32_t part_keys =
      tiles.rows.tile() + part_column / 64 * Tiling::kRowPanelBytes + part_column % 64 * 2;

  float k_bar[1][Tiling::kDim / 8][4];
  float v_bar[1][Tiling::kDim / 8][4];
  Clear(k_bar);
  Clear(v_bar);
  float q_bar[1][Part::kColumns / 8][4];
  typename Mma::A s_bar[kBlocks / 2];

  const QBarBarriers q_bar_barriers = QBarBarriers::Of(base, consumer);
  int column = column_begin, head = work.head * params.group;  // of the current step
  int column_before = 0, head_before = 0;                      // of the step before
  int used_scores = 0;                                         // the buffer of its queries
  std::uint32_t buffer = 0;  // offset of the current step's S_bar: 0 in even steps

  // The products that take S_bar of the step before: a group each.
  const auto start_q_bar = [&] {
    const std::uint32_t queries_before = Anew(part_queries + (buffer ^ Tiling::kScoreBarBytes));
    const std::uint32_t keys = Anew(part_keys);
    const std::uint64_t first_query = ColumnsDescriptor(queries_before, Tiling::kRowPanelBytes);
    const std::uint64_t first_key = ColumnsDescriptor(keys, Tiling::kRowPanelBytes);
#pragma unroll
    for (int inner = 0; inner < Tiling::kRows; inner += 16) {
      const std::uint64_t left = AdvanceDescriptor(first_query, inner * kPanelRowBytes);
      const std::uint64_t right = AdvanceDescriptor(first_key, inner * kPanelRowBytes);
      if (inner > 0) {
        Wgmma<Part::kColumns>::template AddColumns<typename Mma::Element>(q_bar[0], left, right);
      } else {
        Wgmma<Part::kColumns>::template SetColumns<typename Mma::Element>(q_bar[0], left, right);
      }
    }
    CommitProducts();
  };
  const auto start_k_bar = [&] {
    AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(k_bar, s_bar,
                                                       tiles.scores.tile(used_scores));
    CommitProducts();
  };
  // Hands the q_bar part of the step before to the sum.
  const auto add_q_bar = [&] {
    const unsigned thread = ThreadIndex() % 128;
    if constexpr (Tiling::kConfig.adds_registers) {
      float* destination =
          QBarPartOf<Tiling>(params, work.batch, head_before, column_before, consumer) + thread * 4;
#pragma unroll
      for (int block = 0; block < Part::kColumns / 8; ++block) {
        AddFloats(destination + block * 512, q_bar[0][block]);
      }
    } else {
      const std::uint32_t destination =
          base + Tiling::kQBarOffset + consumer * Tiling::kQBarPartBytes + thread * 16;
      WaitForPhase(q_bar_barriers.empty, buffer != 0 ? 1 : 0);
#pragma unroll
      for (int block = 0; block < Part::kColumns / 8; ++block) {
        sm80::StoreShared4(destination + block * 2048, q_bar[0][block]);
      }
      PublishSharedWrites();
      Arrive(q_bar_barriers.full);
    }
  };
  const auto compute = [&](auto has_before) {
    constexpr bool kHasBefore = decltype(has_before)::value;
    float s[1][kBlocks][4];
    float p_bar[1][kBlocks][4];
    typename Mma::A p[kPartBlocks / 2];
    const std::uint32_t q = tiles.scores.tile();
    const std::uint32_t o_bar = tiles.values.tile();
    tiles.scores.WaitUntilFull();
    FenceProducts();
    if constexpr (kHasBefore) start_q_bar();
    MultiplyRowTiles<Tiling>(s, Anew(k), q);
    CommitProducts();
    if constexpr (kHasBefore) {
      start_k_bar();
      WaitFor<2>(q_bar);
      add_q_bar();
    }

    WaitFor<kHasBefore ? 1 : 0>(s);
    const bool whole =
        static_cast<unsigned>(column - whole_begin) < static_cast<unsigned>(whole_count);
    const int warp_row = row + static_cast<int>(ThreadIndex() / 32 * 16) - 64;
    ModifyScores<false, true>(params, {work.batch, 0, warp_row, column}, whole, s);
    const auto inverse_sums = [&] {
      return InverseSumsOfHead<float>(params, work.batch, head) + column;
    };
    // P of one of kParts parts of the columns, and its product.
    const auto exponentiate = [&](int part) {
      ForEachColumnValue<kPartBlocks>(q + Tiling::kStatisticsOffset + part * kPartBlocks * 32,
                                      [&](int block, int side, float shift) {
#pragma unroll
                                        for (int e = side; e < 4; e += 2) {
                                          float& x = s[0][part * kPartBlocks + block][e];
                                          x = Mma::Exp2(Exponent<false>(x, log2_scale, shift));
                                        }
                                      });
      if (unfolded) {
        using Part = float[1][kPartBlocks][4];
        ScaleProbabilities(inverse_sums() + part * kPartBlocks * 8,
                           reinterpret_cast<Part&>(s[0][part * kPartBlocks]));
      }
    };
    const auto make_fragments = [&](int part) {
#pragma unroll
      for (int step = 0; step < kPartBlocks / 2; ++step) {
        p[step] = Mma::MakeA(&s[0][part * kPartBlocks + 2 * step]);
      }
    };
    const auto start_v_bar = [&](int part) {
      FenceProducts();
      AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(
          v_bar, p, o_bar + part * kPartBlocks * 8 * kPanelRowBytes);
      CommitProducts();
    };
    exponentiate(0);
    if constexpr (kParts > 1) make_fragments(0);
    if constexpr (kHasBefore) {
      if constexpr (kParts == 1) FinishBeforeWait(s);
      WaitFor<0>(k_bar);
      tiles.scores.Release(used_scores);
    }
    used_scores = tiles.scores.index();
    tiles.scores.Advance();

    tiles.values.WaitUntilFull();
    FenceProducts();
    MultiplyRowTiles<Tiling>(p_bar, Anew(v), o_bar);
    CommitProducts();
    if constexpr (kParts == 1) make_fragments(0);
    start_v_bar(0);
    if constexpr (kParts > 1) {
      exponentiate(1);
      WaitFor<0>(p_bar, v_bar);
      make_fragments(1);
      start_v_bar(1);
    } else {
      WaitFor<1>(p_bar);
    }
    if (!whole) ClearBeside(0.0f, s, p_bar);
    ForEachColumnValue<kBlocks>(q + Tiling::kStatisticsOffset + Tiling::kColumns * 4,
                                [&](int block, int side, float delta) {
#pragma unroll
                                  for (int e = side; e < 4; e += 2) {
                                    s[0][block][e] *= p_bar[0][block][e] - delta;
                                  }
                                });
    if (unfolded) ClearOneHot(inverse_sums(), s);
    MakeFragments<Mma>(s_bar, s);
    // Lane l stores row l % 16 of the 16-byte chunk l / 16 of each pair of blocks, swizzled.
    const unsigned thread = ThreadIndex() - 128;
    const std::uint32_t destination = score_bar + buffer +
                                      (thread / 32 * 16 + thread % 16) * kPanelRowBytes +
                                      (thread % 32 / 16 ^ thread % 8) * 16;
#pragma unroll
    for (int block = 0; block < kBlocks / 2; ++block) {
      StoreMatrix4((destination ^ block % 4 * 32) + block / 4 * Tiling::kRowPanelBytes,
                   s_bar[block].x);
    }
    PublishSharedWrites();
    WaitFor<0>(v_bar);
    // As Release does it, but the lane takes no register from one step to the next.
    __syncwarp();
    if (ThreadIndex() % 32 == 0) Arrive(tiles.values.empty(tiles.values.index()));
    tiles.values.Advance();
    SyncThreads<Tiling::kConsumers * 128>(1);

    buffer ^= Tiling::kScoreBarBytes;
    head_before = head;
    column_before = column;
    column += Tiling::kColumns;
    if (column >= column_end) {
      column = column_begin;
      ++head;
    }
  };

  tiles.rows.WaitUntilFull();
  if (steps > 0) {
    compute(std::false_type());
#pragma unroll 1
    for (int left = steps - 1; left > 0; --left) compute(std::true_type());
    FenceProducts();
    start_q_bar();
    start_k_bar();
    WaitFor<1>(q_bar);
    add_q_bar();
    WaitFor<0>(k_bar);
  }

  NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_kv + work.head,
           row + (static_cast<int>(threadIdx.x) / 32 - 4) * 16, params.seq_kv, 0, 1, k_bar, v_bar);
  const auto store = [&](const OutputRows& rows, int columns, const auto& x, float factor) {
    if (rows.data == nullptr) return;
    const int warp_row = (threadIdx.x / 32 - 4) * 16;
    StoreRows<Mma>(rows, work.batch, work.head, row + warp_row, params.seq_kv, 0, columns, x,
                   [&](int, int) { return factor; });
  };
  store(params.k_bar, params.head_dim, k_bar, static_cast<float>(params.scale));
  store(params.v_bar, params.head_dim_v, v_bar, 1.0f);
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_VJP_ONE_PASS_CUH_
