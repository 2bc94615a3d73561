// Which rows a tile of the gather kernels serves.
#pragma once

#include "common/gather_rounds.h"

namespace LACUNA_NS {

// A call and the tiles of its pairs.
struct GatherTiles {
  lacuna_gather_forward_params params;
  int tiles_of_pair[kMaxGatherLevels];       // kernel tiles of the largest pair of a level
  int64_t first_tile[kMaxGatherLevels + 1];  // of a level's pairs; the last one is the number of tiles of a head
  int leaf_tiles;                            // causal: kernel tiles of each node of level `levels`
  bool partial;                              // the pairs leave partials
};

// Rows of a head that the pairs of a level leave partials of.
__host__ __device__ __forceinline__ int partial_rows_of_head(const lacuna_shape& shape,
                                                             const lacuna_gather_plan& plan) {
  return plan.causal != 0 ? shape.q_len / 2 : shape.q_len;
}

// Rows of partials of a round.
__host__ __device__ __forceinline__ int64_t partial_rows(const lacuna_shape& shape, const lacuna_gather_plan& plan) {
  const int64_t heads = static_cast<int64_t>(plan.levels) * shape.batch * shape.q_heads;
  return heads * partial_rows_of_head(shape, plan);
}

// Query blocks of a pair are `size` queries long, in as many kernel tiles as that takes.
struct QueryBlocks {
  int size;
  int tiles;  // of a block
  int all;    // tiles of the pair
};

template <int kTileRows>
__host__ __device__ __forceinline__ QueryBlocks query_blocks(int queries, int keys, int block_size) {
  QueryBlocks blocks;
  blocks.size = queries_of_block(queries, keys, block_size);
  blocks.tiles = divide_up(blocks.size, kTileRows);
  blocks.all = divide_up(queries, blocks.size) * blocks.tiles;
  return blocks;
}

// Tiles of the largest pair of a level: nodes of a level have one of two lengths.
template <int kTileRows>
int tiles_of_pair(const lacuna_shape& shape, const lacuna_gather_plan& plan, int level) {
  if (plan.causal == 0) {
    return query_blocks<kTileRows>(shape.q_len, shape.kv_len, plan.block_size).all;
  }
  const int longest = longest_node(shape.q_len, level);
  int most = 0;
  for (int len = longest - 1; len <= longest; ++len) {
    if (!has_halves(len, plan.min_seq_len)) continue;
    const int tiles = query_blocks<kTileRows>(len / 2, len - len / 2, plan.block_size).all;
    most = tiles > most ? tiles : most;
  }
  return most;
}

template <int kTileRows>
GatherTiles gather_tiles(const lacuna_gather_forward_params& p) {
  GatherTiles tiles;
  tiles.params = p;
  tiles.first_tile[0] = 0;
  for (int level = 0; level < p.plan.levels; ++level) {
    tiles.tiles_of_pair[level] = tiles_of_pair<kTileRows>(p.shape, p.plan, level);
    tiles.first_tile[level + 1] = tiles.first_tile[level] + (int64_t{tiles.tiles_of_pair[level]} << level);
  }
  tiles.partial = p.plan.causal != 0 || p.plan.rounds > 1;
  tiles.leaf_tiles = p.plan.causal != 0 ? divide_up(longest_node(p.shape.q_len, p.plan.levels), kTileRows) : 0;
  return tiles;
}

// The call of one round: its part of the plan, and of the partials.
inline GatherTiles tiles_of_round(const GatherTiles& all, int round) {
  GatherTiles tiles = all;
  lacuna_gather_forward_params& p = tiles.params;
  p.plan = plan_of_round(p.shape, all.params.plan, round);
  if (tiles.partial) {
    const int64_t rows = round * partial_rows(p.shape, p.plan);
    p.partial_out += rows * p.shape.head_dim;
    p.partial_lse += rows;
  }
  return tiles;
}

struct GatherHead {
  int batch;
  int head;  // query head
  int kv_head;
};

// The head of block `index` of a kernel with `tiles` blocks a head, and its tile there. Heads that share K and V come
// one after another.
__device__ __forceinline__ GatherHead gather_head(const lacuna_shape& shape, int64_t index, int64_t tiles,
                                                  int64_t& tile) {
  const int group = shape.q_heads / shape.kv_heads;
  GatherHead head;
  head.head = static_cast<int>(index % group);
  index /= group;
  tile = index % tiles;
  index /= tiles;
  head.kv_head = static_cast<int>(index % shape.kv_heads);
  head.batch = static_cast<int>(index / shape.kv_heads);
  head.head += head.kv_head * group;
  return head;
}

// Rows of a pair that share one block of its keys.
struct PairTile {
  GatherHead head;
  GatherPair pair;
  int level;
  int node;   // of the level
  int block;  // of keys
  int first;  // place of tile row 0 in the pair's sorted queries
  int rows;   // 0: the block has nothing to do
};

// Tile `tile` of the pairs of a level, which have room for `per_pair` tiles each.
template <int kTileRows>
__device__ __forceinline__ PairTile pair_tile(const lacuna_shape& shape, const lacuna_gather_plan& plan,
                                              const GatherHead& head, int level, int64_t tile, int per_pair) {
  PairTile work;
  work.head = head;
  work.level = level;
  const int node = static_cast<int>(tile / per_pair);
  const int of_pair = static_cast<int>(tile % per_pair);
  work.pair = gather_pair(shape, plan, level, node);
  work.node = node;
  work.block = work.first = work.rows = 0;
  if (work.pair.queries.len == 0) return work;
  const QueryBlocks blocks = query_blocks<kTileRows>(work.pair.queries.len, work.pair.keys.len, plan.block_size);
  if (of_pair >= blocks.all) return work;
  work.block = of_pair / blocks.tiles;
  const int within = of_pair % blocks.tiles * kTileRows;
  work.first = work.block * blocks.size + within;
  const int in_block = blocks.size - within;
  const int in_pair = work.pair.queries.len - work.first;
  const int rows = in_block < in_pair ? in_block : in_pair;
  work.rows = rows < 0 ? 0 : rows < kTileRows ? rows : kTileRows;
  return work;
}

template <int kTileRows>
__device__ __forceinline__ PairTile pair_tile(const GatherTiles& args, int64_t index) {
  const lacuna_gather_plan& plan = args.params.plan;
  int64_t tile;
  const GatherHead head = gather_head(args.params.shape, index, args.first_tile[plan.levels], tile);
  int level = 0;
  while (tile >= args.first_tile[level + 1]) ++level;
  return pair_tile<kTileRows>(args.params.shape, plan, head, level, tile - args.first_tile[level],
                              args.tiles_of_pair[level]);
}

// Rows of a leaf.
struct LeafTile {
  GatherHead head;
  Segment leaf;
  int first;  // row of tile row 0
  bool valid;
};

// Longest tiles first. A leaf one level higher than others has the tiles of two nodes. `leaf_tiles`: of a node of level
// `levels`.
template <int kTileRows>
__device__ __forceinline__ LeafTile leaf_tile(const lacuna_shape& shape, const lacuna_gather_plan& plan, int leaf_tiles,
                                              int64_t index) {
  const int64_t nodes = int64_t{1} << plan.levels;
  LeafTile work;
  int64_t tile;
  work.head = gather_head(shape, index, nodes * leaf_tiles, tile);
  // Among the nodes of level `levels`: the halves on the way down, the highest bit first.
  const int path = static_cast<int>(tile % nodes);
  int of_leaf = leaf_tiles - 1 - static_cast<int>(tile / nodes);
  work.leaf = tree_node(shape.q_len, plan.levels - 1, path >> 1);
  if (has_halves(work.leaf.len, plan.min_seq_len)) {
    work.leaf = tree_node(shape.q_len, plan.levels, path);
  } else {
    of_leaf += (path & 1) * leaf_tiles;
  }
  work.first = work.leaf.start + of_leaf * kTileRows;
  work.valid = of_leaf * kTileRows < work.leaf.len;
  return work;
}

}  // namespace LACUNA_NS
