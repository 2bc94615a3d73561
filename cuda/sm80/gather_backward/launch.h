// Starting the kernels of a backward pass over a gather plan: one function a head dim, each in a compilation of its
// own.
#pragma once

#include "sm80/gather_backward/args.h"

namespace LACUNA_NS {
namespace sm80 {

enum class GatherBackwardPass {
  kQueries,      // dq of a level
  kSamples,      // partial dk and dv of the samples of a level
  kBlocks,       // dk and dv of the blocks of a level
  kLeafQueries,  // dq
  kLeafKeys      // dk and dv
};

// What profilers and the SIMT host call the kernels.
struct GatherBackwardNames {
  const char* queries;
  const char* samples;
  const char* blocks;
  const char* leaf_queries;
  const char* leaf_keys;
};

int32_t gather_backward_d32(const GatherBackwardArgs& args, GatherBackwardPass pass, void* stream);
int32_t gather_backward_d64(const GatherBackwardArgs& args, GatherBackwardPass pass, void* stream);
int32_t gather_backward_d96(const GatherBackwardArgs& args, GatherBackwardPass pass, void* stream);
int32_t gather_backward_d128(const GatherBackwardArgs& args, GatherBackwardPass pass, void* stream);
int32_t gather_backward_d256(const GatherBackwardArgs& args, GatherBackwardPass pass, void* stream);

}  // namespace sm80
}  // namespace LACUNA_NS
