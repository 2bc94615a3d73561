// The launcher bodies shared by the head-dim compilations.
#pragma once

#include "ptx/launch.h"
#include "sm80/gather_backward/key_kernel.h"
#include "sm80/gather_backward/launch.h"
#include "sm80/gather_backward/query_kernel.h"

namespace LACUNA_NS {
namespace sm80 {

// Tiles of 64 keys, each of one block (windows: of all keys), of the largest pair of a level.
inline int key_tiles_of_pair(const lacuna_shape& shape, const lacuna_gather_plan& plan, int level) {
  int most = 0;
  const int longest = plan.causal == 0 ? shape.kv_len : longest_node(shape.q_len, level);
  for (int len = plan.causal == 0 ? longest : longest - 1; len <= longest; ++len) {
    const int keys = plan.causal == 0 ? len : len - len / 2;
    const int block = key_block(plan, keys);
    const int tiles = divide_up(keys, block) * divide_up(block, kWorkKeys);
    most = tiles > most ? tiles : most;
  }
  return most;
}

template <int kHeadDim, class T>
struct GatherBackwardLaunches {
  using Query = GatherQueryTraits<kHeadDim, T>;
  using Key = GatherKeyTraits<kHeadDim, T>;

  static int32_t pairs(const GatherBackwardNames& names, GatherBackwardArgs args, GatherBackwardPass pass,
                       void* stream) {
    const lacuna_shape& shape = args.params.forward.shape;
    const lacuna_gather_plan& plan = args.params.forward.plan;
    const int64_t q_heads = static_cast<int64_t>(shape.batch) * shape.q_heads;
    const int64_t kv_heads = static_cast<int64_t>(shape.batch) * shape.kv_heads;
    // Windows differ from head to head, and what several heads have for a key is added up in their order.
    const int launches = plan.windows != nullptr ? shape.q_heads / shape.kv_heads : 1;
    switch (pass) {
      case GatherBackwardPass::kQueries:
        args.per_pair = tiles_of_pair<Query::kTileRows>(shape, plan, args.level);
        return launch<gather_query_grad_kernel<Query>>(names.queries, (q_heads * args.per_pair) << args.level,
                                                       Query::kThreads, sizeof(typename Query::Shared), stream, args);
      case GatherBackwardPass::kSamples: {
        args.per_pair =
            static_cast<int>(sample_chunks(longest_pair(shape, plan, args.level)) * (shape.q_heads / shape.kv_heads));
        const int64_t blocks = (kv_heads * args.per_pair * (args.memory.sample_rows / kSampleTile)) << args.level;
        return launch<gather_key_grad_kernel<KeyList::kSamples, Key>>(names.samples, blocks, Key::kThreads,
                                                                      sizeof(typename Key::Shared), stream, args);
      }
      case GatherBackwardPass::kBlocks:
        args.per_pair = key_tiles_of_pair(shape, plan, args.level);
        for (args.q_head = 0; args.q_head < launches; ++args.q_head) {
          args.more_keys = plan.causal != 0 || args.more_rounds || args.q_head + 1 < launches;
          const int32_t status = launch<gather_key_grad_kernel<KeyList::kBlock, Key>>(
              names.blocks, (kv_heads * args.per_pair) << args.level, Key::kThreads, sizeof(typename Key::Shared),
              stream, args);
          if (status != LACUNA_OK) return status;
        }
        return LACUNA_OK;
      case GatherBackwardPass::kLeafQueries:
        args.leaf_tiles = divide_up(longest_node(shape.q_len, plan.levels), Query::kTileRows);
        return launch<gather_leaf_query_grad_kernel<Query>>(names.leaf_queries,
                                                            (q_heads * args.leaf_tiles) << plan.levels, Query::kThreads,
                                                            sizeof(typename Query::Shared), stream, args);
      default:
        args.leaf_tiles = divide_up(longest_node(shape.q_len, plan.levels), kWorkKeys);
        return launch<gather_key_grad_kernel<KeyList::kLeaf, Key>>(
            names.leaf_keys, (kv_heads * args.leaf_tiles) << plan.levels, Key::kThreads, sizeof(typename Key::Shared),
            stream, args);
    }
  }
};

template <int kHeadDim>
int32_t gather_backward_of(const GatherBackwardNames& f16_names, const GatherBackwardNames& bf16_names,
                           const GatherBackwardArgs& args, GatherBackwardPass pass, void* stream) {
  if (args.params.forward.shape.dtype == LACUNA_F16) {
    return GatherBackwardLaunches<kHeadDim, Half>::pairs(f16_names, args, pass, stream);
  }
  return GatherBackwardLaunches<kHeadDim, BFloat16>::pairs(bf16_names, args, pass, stream);
}

#define LACUNA_GATHER_BACKWARD_NAMES(dim, type)                                                        \
  {"sm80_gather_backward_query_d" #dim "_" #type, "sm80_gather_backward_samples_d" #dim "_" #type,     \
   "sm80_gather_backward_blocks_d" #dim "_" #type, "sm80_gather_backward_leaf_query_d" #dim "_" #type, \
   "sm80_gather_backward_leaf_key_d" #dim "_" #type}

}  // namespace sm80
}  // namespace LACUNA_NS
