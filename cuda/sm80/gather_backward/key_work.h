// What a block of the key kernels works on: up to 64 keys, and the queries that attend them.
#pragma once

#include "sm80/gather/kernel.h"
#include "sm80/gather_backward/args.h"

namespace LACUNA_NS {
namespace sm80 {

// Which keys.
enum class KeyList {
  kBlock,    // of a block of a pair, in sorted order: its query block attends them
  kSamples,  // of a pair: all its queries attend them but those whose block they lie in
  kLeaf      // of a leaf: its queries from their own position on
};

// It lies in shared memory: its state would cost every thread's registers.
struct KeyWork {
  GatherHead head;       // of the first query head that is walked
  int heads;             // query heads that are walked
  int keys;              // <= 64
  int first;             // place of the first query in sorted order; of a leaf: its row
  int queries;           // of each head
  int tiles;             // of each head
  Segment rows;          // query rows that are valid
  LocalRows local;       // of the pair
  bool windows;          // of blocks: not all queries that are walked attend all keys
  const int32_t* order;  // query rows of place 0 of the first head
  LaterRounds later;     // of the pair and the first query head
  int64_t sample;        // samples: partial row of key 0
};

constexpr int kWorkKeys = 64;

// Keys whose tiles lie side by side: those of a block, or with windows all of them.
__host__ __device__ __forceinline__ int key_block(const lacuna_gather_plan& plan, int keys) {
  return plan.windows != nullptr || plan.block_size > keys ? keys : plan.block_size;
}

// Where the rows of those keys are written.
struct WorkKeys {
  Segment keys;           // rows that are valid
  GatherPair pair;        // blocks and samples
  const int32_t* rows;    // key rows of the block, or of the samples
  const int32_t* places;  // samples: of them
  const float* weights;   // samples: of them, logs; or null: `weight`
  float weight;
  KeyWindows windows;  // blocks and samples
  int low;             // of key 0: its place in sorted order; of a leaf, its row
  int queries_end;     // leaf: behind its queries
  int local_end;       // leaf: behind those of its last keys
  int count;

  // The queries that have a place of the sorted keys in their block or window: from .. to.
  __device__ __forceinline__ int query_from(int place) const {
    const int64_t from = windows.queries_until(place - windows.size);
    return from < pair.queries.len ? static_cast<int>(from) : pair.queries.len;
  }
  __device__ __forceinline__ int query_end(int place) const {
    const int64_t end = windows.queries_until(place);
    return end < pair.queries.len ? static_cast<int>(end) : pair.queries.len;
  }
};

// Tile `tile` of the key blocks of a pair; count 0: nothing to do.
template <int kTileRows>
__device__ __forceinline__ WorkKeys block_work(const GatherBackwardArgs& args, int64_t index, KeyWork& work) {
  const lacuna_gather_forward_params& p = args.params.forward;
  const lacuna_gather_plan& plan = p.plan;
  const int group = p.shape.q_heads / p.shape.kv_heads;
  const int of_pair = static_cast<int>(index % args.per_pair);
  index /= args.per_pair;
  const int node = static_cast<int>(index & ((int64_t{1} << args.level) - 1));
  index >>= args.level;
  work.head.kv_head = static_cast<int>(index % p.shape.kv_heads);
  work.head.batch = static_cast<int>(index / p.shape.kv_heads);
  work.head.head = work.head.kv_head * group;
  work.heads = group;
  if (plan.windows != nullptr) {
    work.head.head += args.q_head;
    work.heads = 1;
  }
  work.sample = 0;
  const GatherPair pair = gather_pair(p.shape, plan, args.level, node);
  WorkKeys keys{};
  keys.pair = pair;
  keys.keys = pair.keys;
  if (pair.keys.len == 0) return keys;
  const int block_keys = key_block(plan, pair.keys.len);
  const int per_block = divide_up(block_keys, kWorkKeys);
  const int within = of_pair % per_block * kWorkKeys;
  const int64_t low = static_cast<int64_t>(of_pair / per_block) * block_keys + within;
  if (low >= pair.keys.len || within >= block_keys) return keys;
  const int in_block = block_keys - within;
  const int in_pair = pair.keys.len - static_cast<int>(low);
  const int left = in_block < in_pair ? in_block : in_pair;
  keys.count = left < kWorkKeys ? left : kWorkKeys;
  const int64_t kv_heads = static_cast<int64_t>(p.shape.batch) * p.shape.kv_heads;
  const int64_t kv_head = static_cast<int64_t>(work.head.batch) * p.shape.kv_heads + work.head.kv_head;
  keys.rows = plan.k_order + (args.level * kv_heads + kv_head) * p.shape.kv_len + pair.keys.start + low;
  keys.low = static_cast<int>(low);
  keys.windows = key_windows(p.shape, plan, work.head.batch, work.head.head, args.level, node, pair);
  work.first = keys.query_from(keys.low);
  work.queries = keys.query_end(keys.low + keys.count - 1) - work.first;
  work.rows = pair.queries;
  work.local = local_rows(plan, pair);
  work.later = later_rounds(p.shape, plan, args.level, work.head.batch, work.head.head, work.head.kv_head);
  work.windows = plan.windows != nullptr;
  const int64_t q_heads = static_cast<int64_t>(p.shape.batch) * p.shape.q_heads;
  const int64_t q_head = static_cast<int64_t>(work.head.batch) * p.shape.q_heads + work.head.head;
  work.order = plan.q_order + (args.level * q_heads + q_head) * p.shape.q_len + pair.queries.start;
  work.keys = keys.count;
  work.tiles = divide_up(work.queries, kTileRows);
  return keys;
}

// A tile of samples of a pair, against a part of the queries of one head.
template <int kTileRows>
__device__ __forceinline__ WorkKeys sample_work(const GatherBackwardArgs& args, int64_t index, KeyWork& work) {
  const lacuna_gather_forward_params& p = args.params.forward;
  const lacuna_gather_plan& plan = p.plan;
  const int group = p.shape.q_heads / p.shape.kv_heads;
  const int tiles = static_cast<int>(args.memory.sample_rows / kSampleTile);
  const int tile = static_cast<int>(index % tiles);
  index /= tiles;
  const int piece = static_cast<int>(index % args.per_pair);
  index /= args.per_pair;
  const int node = static_cast<int>(index & ((int64_t{1} << args.level) - 1));
  index >>= args.level;
  work.head.kv_head = static_cast<int>(index % p.shape.kv_heads);
  work.head.batch = static_cast<int>(index / p.shape.kv_heads);
  work.head.head = work.head.kv_head * group + piece % group;
  work.heads = 1;
  const GatherPair pair = gather_pair(p.shape, plan, args.level, node);
  WorkKeys keys{};
  keys.pair = pair;
  keys.keys = pair.keys;
  const int64_t first = static_cast<int64_t>(piece / group) * kSamplePieceRows;
  if (first >= pair.queries.len || pair.keys.len <= plan.block_size) return keys;
  const bool exact = tile * kSampleTile < plan.exact;
  if (exact && pair.keys.start >= plan.exact) return keys;
  const int left = plan.samples - tile * kSampleTile;
  keys.count = left < kSampleTile ? left : kSampleTile;
  const int64_t kv_heads = static_cast<int64_t>(p.shape.batch) * p.shape.kv_heads;
  const int64_t kv_head = static_cast<int64_t>(work.head.batch) * p.shape.kv_heads + work.head.kv_head;
  const int64_t at = (pair_number(args.level, node) * kv_heads + kv_head) * plan.samples + tile * kSampleTile;
  keys.rows = plan.sample_rows + at;
  keys.places = plan.sample_places + at;
  keys.weights = plan.sample_weights == nullptr || exact ? nullptr : plan.sample_weights + at;
  keys.weight = exact ? 0.0f : common_weight(plan, pair.keys.len);
  keys.windows = key_windows(p.shape, plan, work.head.batch, work.head.head, args.level, node, pair);
  work.first = static_cast<int>(first);
  work.queries = pair.queries.len - work.first < kSamplePieceRows ? pair.queries.len - work.first : kSamplePieceRows;
  work.rows = pair.queries;
  work.local = local_rows(plan, pair);
  work.later = later_rounds(p.shape, plan, args.level, work.head.batch, work.head.head, work.head.kv_head);
  work.windows = plan.windows != nullptr;
  const int64_t q_heads = static_cast<int64_t>(p.shape.batch) * p.shape.q_heads;
  const int64_t q_head = static_cast<int64_t>(work.head.batch) * p.shape.q_heads + work.head.head;
  work.order = plan.q_order + (args.level * q_heads + q_head) * p.shape.q_len + pair.queries.start;
  work.keys = keys.count;
  work.tiles = divide_up(work.queries, kTileRows);
  work.sample = sample_place(args.memory, p.shape, args.level, piece, node, work.head.batch, work.head.kv_head,
                             static_cast<int64_t>(tile) * kSampleTile);
  return keys;
}

// 64 keys of a leaf, against the rows from the first of them on: its own, and, of keys that are local to the next leaf,
// those of that one.
template <int kTileRows>
__device__ __forceinline__ WorkKeys leaf_work(const GatherBackwardArgs& args, int64_t index, KeyWork& work) {
  const lacuna_gather_forward_params& p = args.params.forward;
  const int group = p.shape.q_heads / p.shape.kv_heads;
  // A leaf's tiles in the order of one query head; the first of a group stands for its KV head.
  const LeafTile leaf = leaf_tile<kWorkKeys>(p.shape, p.plan, args.leaf_tiles, index * group);
  work.head = leaf.head;
  work.heads = group;
  work.sample = 0;
  WorkKeys keys{};
  keys.keys = leaf.leaf;
  keys.low = leaf.first;
  if (!leaf.valid) return keys;
  const int end = leaf.leaf.start + leaf.leaf.len;
  keys.count = end - leaf.first < kWorkKeys ? end - leaf.first : kWorkKeys;
  // The next leaf attends the last keys of this one, too.
  const bool local = end < p.shape.q_len && leaf.first + keys.count > end - p.plan.local;
  keys.queries_end = end;
  keys.local_end = local ? end + leaf_of(p.shape.q_len, p.plan, end).len : end;
  work.first = leaf.first;
  work.queries = keys.local_end - leaf.first;
  work.rows = Segment{leaf.first, work.queries};
  work.local = LocalRows{0, 0};
  work.later = LaterRounds{};
  work.windows = false;
  work.order = nullptr;
  work.keys = keys.count;
  work.tiles = divide_up(work.queries, kTileRows);
  return keys;
}

}  // namespace sm80
}  // namespace LACUNA_NS
