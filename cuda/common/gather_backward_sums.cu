// The steps of a backward pass over a gather plan that are not matrix products: sums that start as zeros, and the
// gradients of samples from their parts.
#include "common/gather_backward_steps.h"
#include "common/validate.h"
#include "ptx/launch.h"
#include "ptx/thread.h"

namespace LACUNA_NS {

namespace {

constexpr int kClearThreads = 256;
constexpr int kClearRounds = 16;  // floats of a thread
constexpr int kSumThreads = 128;

struct ClearArgs {
  float* memory;
  int64_t count;
};

__global__ void __launch_bounds__(kClearThreads) clear_kernel(const __grid_constant__ ClearArgs args) {
  const int64_t first = static_cast<int64_t>(block_index()) * kClearThreads * kClearRounds + thread_index();
#pragma unroll 1
  for (int round = 0; round < kClearRounds; ++round) {
    const int64_t at = first + static_cast<int64_t>(round) * kClearThreads;
    if (at < args.count) args.memory[at] = 0.0f;
  }
}

struct SampleArgs {
  lacuna_shape shape;
  lacuna_gather_plan plan;
  GatherBackwardMemory memory;
  int level;
};

// Adds up what the parts of the queries found for the samples of a key, in the order of draws and parts. A block a
// sample; the first of several that are the same key works for all.
__global__ void __launch_bounds__(kSumThreads) sample_sums_kernel(const __grid_constant__ SampleArgs args) {
  const lacuna_shape& shape = args.shape;
  const lacuna_gather_plan& plan = args.plan;
  int64_t index = block_index();
  const int sample = static_cast<int>(index % plan.samples);
  index /= plan.samples;
  const int node = static_cast<int>(index & ((int64_t{1} << args.level) - 1));
  index >>= args.level;
  const int kv_head = static_cast<int>(index % shape.kv_heads);
  const int batch = static_cast<int>(index / shape.kv_heads);
  const GatherPair pair = gather_pair(shape, plan, args.level, node);
  // Then no query attends a sample: all are in its block.
  if (pair.keys.len <= plan.block_size) return;
  const int64_t head = static_cast<int64_t>(batch) * shape.kv_heads + kv_head;
  const int64_t heads = static_cast<int64_t>(shape.batch) * shape.kv_heads;
  const int32_t* rows = plan.sample_rows + (pair_number(args.level, node) * heads + head) * plan.samples;
  const int row = rows[sample];
  if (row < pair.keys.start || row >= pair.keys.start + pair.keys.len) return;
#pragma unroll 1
  for (int other = 0; other < sample; ++other) {
    if (rows[other] == row) return;
  }
  const int64_t pieces = sample_chunks(pair.queries.len) * (shape.q_heads / shape.kv_heads);
#pragma unroll 1
  for (int i = thread_index(); i < 2 * shape.head_dim; i += kSumThreads) {
    float* const sums = (i < shape.head_dim ? args.memory.dk : args.memory.dv) +
                        (head * shape.kv_len + row) * shape.head_dim + i % shape.head_dim;
    float sum = *sums;
#pragma unroll 1
    for (int other = sample; other < plan.samples; ++other) {
      if (rows[other] != row) continue;
#pragma unroll 1
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t at = sample_place(args.memory, shape, args.level, piece, node, batch, kv_head, other);
        sum += args.memory.samples[at * 2 * shape.head_dim + i];
      }
    }
    *sums = sum;
  }
}

}  // namespace

int32_t gather_clear(const GatherBackwardMemory& memory, float* first, void* stream) {
  const ClearArgs args{first, memory.cleared};
  const int64_t of_block = int64_t{kClearThreads} * kClearRounds;
  return launch<clear_kernel>("gather_backward_clear", (memory.cleared + of_block - 1) / of_block, kClearThreads, 0,
                              stream, args);
}

int32_t gather_sample_sums(const lacuna_gather_forward_params& params, const GatherBackwardMemory& memory, int level,
                           void* stream) {
  const SampleArgs args{params.shape, params.plan, memory, level};
  const int64_t heads = static_cast<int64_t>(params.shape.batch) * params.shape.kv_heads;
  return launch<sample_sums_kernel>("gather_backward_sample_sums", (heads * params.plan.samples) << level, kSumThreads,
                                    0, stream, args);
}

}  // namespace LACUNA_NS
