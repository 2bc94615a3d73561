// What the kernels of a backward pass over a gather plan are launched with.
#pragma once

#include "common/gather_backward_memory.h"

namespace LACUNA_NS {
namespace sm80 {

struct GatherBackwardArgs {
  lacuna_gather_backward_params params;
  GatherBackwardMemory memory;
  int level;          // of the pairs
  bool more_queries;  // launches that add to dq follow
  bool more_rounds;   // of the level
  int q_head;         // windows: query head of each group whose blocks are walked
  bool more_keys;     // launches that add to dk and dv follow
  int per_pair;       // tiles that a pair of the level has room for; of samples: pieces
  int leaf_tiles;
  bool q_vectors;  // rows start on 16-byte boundaries: cp.async serves them
  bool k_vectors;
  bool v_vectors;
  bool dout_vectors;
  bool dq_pairs;  // rows start on 4-byte boundaries
  bool dk_pairs;
  bool dv_pairs;
};

}  // namespace sm80
}  // namespace LACUNA_NS
