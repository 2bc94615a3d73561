// Rows in the order of their buckets, stably, in the segments of a gather plan: radix passes of at most 8 bits, each
// count -> scan -> scatter. A block owns a chunk of a segment, a warp consecutive rows of it, and lanes with the same
// digit keep their order, so that the result depends on the buckets alone.
#include "common/validate.h"
#include "ptx/shuffle.h"
#include "select/lsh.h"
#include "select/scan.h"

namespace LACUNA_NS {
namespace lsh {

namespace {

constexpr int kSortThreads = 256;
constexpr int kSortWarps = kSortThreads / kWarpThreads;
constexpr int kWarpRows = kChunkRows / kSortWarps;
static_assert(kSortThreads == kMostBuckets && kSortThreads == kScanThreads, "a thread a bucket");

struct SortArgs {
  lacuna_shape shape;
  lacuna_gather_plan plan;
  Scratch scratch;
  const uint16_t* q_ranks;
  const uint16_t* k_ranks;
  const int32_t* q_from;  // the order that the pass before left; null: rows in their own order
  const int32_t* k_from;
  int32_t* q_to;
  int32_t* k_to;
  int shift;  // of the pass's digit
};

// A segment of a head, and a chunk of it.
struct Chunk {
  const uint16_t* ranks;  // of the head
  const int32_t* from;    // of the head and level, or null
  int32_t* to;            // of the head and level
  int32_t* counts;        // [buckets] of the chunk
  Segment segment;
  int chunks;  // of the segment
  int first;   // row of the segment
  int rows;    // <= 0: none
};

// Chunk `chunk` of pair `index` of a level.
__device__ __forceinline__ Chunk chunk_of(const SortArgs& args, bool query, int64_t head, int level, int index,
                                          int chunk) {
  const Side& side = query ? args.scratch.q : args.scratch.k;
  const GatherPair pair = gather_pair(args.shape, args.plan, level, index);
  const int64_t of_head = head * side.len;
  const int64_t of_level = level * side.heads * side.len + of_head;
  const int64_t number = head * side.first_chunk[args.plan.levels] + side.first_chunk[level] +
                         static_cast<int64_t>(index) * side.chunks[level] + chunk;
  const int64_t before = query ? 0 : args.scratch.q.heads * args.scratch.q.first_chunk[args.plan.levels];
  const int32_t* from = query ? args.q_from : args.k_from;
  Chunk result;
  result.ranks = (query ? args.q_ranks : args.k_ranks) + of_head;
  result.from = from == nullptr ? nullptr : from + of_level;
  result.to = (query ? args.q_to : args.k_to) + of_level;
  result.counts = args.scratch.counts + ((before + number) << args.scratch.bits);
  result.segment = query ? pair.queries : pair.keys;
  result.chunks = divide_up(result.segment.len, kChunkRows);
  result.first = chunk * kChunkRows;
  const int left = result.segment.len - result.first;
  result.rows = left < kChunkRows ? left : kChunkRows;
  return result;
}

// The chunk of block `block` of a kernel with a block a chunk.
__device__ __forceinline__ Chunk chunk_of_block(const SortArgs& args, int64_t block) {
  const int levels = args.plan.levels;
  const int64_t q_blocks = args.scratch.q.heads * args.scratch.q.first_chunk[levels];
  const bool query = block < q_blocks;
  const Side& side = query ? args.scratch.q : args.scratch.k;
  block -= query ? 0 : q_blocks;
  const int64_t head = block / side.first_chunk[levels];
  const int64_t chunk = block % side.first_chunk[levels];
  int level = 0;
  while (chunk >= side.first_chunk[level + 1]) ++level;
  const int64_t of_level = chunk - side.first_chunk[level];
  return chunk_of(args, query, head, level, static_cast<int>(of_level / side.chunks[level]),
                  static_cast<int>(of_level % side.chunks[level]));
}

struct SortShared {
  int32_t counts[kSortWarps][kMostBuckets];
};

// Row `i` of the chunk, and its digit.
__device__ __forceinline__ int32_t row_at(const Chunk& chunk, int i) {
  const int place = chunk.segment.start + chunk.first + i;
  return chunk.from == nullptr ? place : chunk.from[place];
}

__device__ __forceinline__ int digit_of(const SortArgs& args, const Chunk& chunk, int32_t row) {
  return chunk.ranks[row] >> args.shift & ((1 << args.scratch.bits) - 1);
}

// The lanes whose digit is this lane's; lanes that are not `valid` have none.
__device__ __forceinline__ uint32_t same_digit(int digit, int bits, bool valid) {
  uint32_t same = ballot(valid);
  for (int bit = 0; bit < bits; ++bit) {
    const bool set = (digit >> bit & 1) != 0;
    const uint32_t lanes = ballot(set);
    same &= set ? lanes : ~lanes;
  }
  return same;
}

// Counts the digits of each warp's rows into smem.counts.
__device__ __forceinline__ void count_digits(const SortArgs& args, const Chunk& chunk, SortShared& smem) {
  const int warp = thread_index() / kWarpThreads;
  const int lane = thread_index() % kWarpThreads;
  for (int bucket = lane; bucket < kMostBuckets; bucket += kWarpThreads) smem.counts[warp][bucket] = 0;
  sync_warp();
  for (int base = warp * kWarpRows; base < (warp + 1) * kWarpRows && base < chunk.rows; base += kWarpThreads) {
    const bool valid = base + lane < chunk.rows;
    const int digit = valid ? digit_of(args, chunk, row_at(chunk, base + lane)) : 0;
    const uint32_t same = same_digit(digit, args.scratch.bits, valid);
    if (valid && lane == lowest_bit(same)) smem.counts[warp][digit] += popcount(same);
    sync_warp();
  }
}

__global__ void __launch_bounds__(kSortThreads) lsh_count_kernel(const __grid_constant__ SortArgs args) {
  SortShared& smem = shared<SortShared>();
  const Chunk chunk = chunk_of_block(args, block_index());
  if (chunk.rows <= 0) return;
  count_digits(args, chunk, smem);
  sync_threads();
  const int bucket = thread_index();
  if (bucket >= 1 << args.scratch.bits) return;
  int32_t count = 0;
  for (int warp = 0; warp < kSortWarps; ++warp) count += smem.counts[warp][bucket];
  chunk.counts[bucket] = count;
}

struct OffsetShared {
  int64_t sums[kScanThreads];
};

// Counts become places in the segment: a block a segment, a thread a bucket.
__global__ void __launch_bounds__(kSortThreads) lsh_offsets_kernel(const __grid_constant__ SortArgs args) {
  OffsetShared& smem = shared<OffsetShared>();
  const int64_t pairs = (int64_t{1} << args.plan.levels) - 1;
  const int64_t all_heads = block_index() / pairs;
  const int number = static_cast<int>(block_index() % pairs);
  int level = 0;
  while (number >= (2 << level) - 1) ++level;
  const bool query = all_heads < args.scratch.q.heads;
  const int64_t head = all_heads - (query ? 0 : args.scratch.q.heads);
  const Chunk first = chunk_of(args, query, head, level, number - ((1 << level) - 1), 0);
  if (first.rows <= 0) return;
  const int buckets = 1 << args.scratch.bits;
  const int bucket = thread_index();
  int32_t total = 0;
  if (bucket < buckets) {
    for (int chunk = 0; chunk < first.chunks; ++chunk) total += first.counts[chunk * buckets + bucket];
  }
  int32_t place = static_cast<int32_t>(block_scan(smem.sums, total));
  if (bucket >= buckets) return;
  for (int chunk = 0; chunk < first.chunks; ++chunk) {
    int32_t& cell = first.counts[chunk * buckets + bucket];
    const int32_t count = cell;
    cell = place;
    place += count;
  }
}

__global__ void __launch_bounds__(kSortThreads) lsh_scatter_kernel(const __grid_constant__ SortArgs args) {
  SortShared& smem = shared<SortShared>();
  const Chunk chunk = chunk_of_block(args, block_index());
  if (chunk.rows <= 0) return;
  count_digits(args, chunk, smem);
  sync_threads();
  if (thread_index() < 1 << args.scratch.bits) {
    int32_t place = chunk.counts[thread_index()];
    for (int warp = 0; warp < kSortWarps; ++warp) {
      int32_t& cell = smem.counts[warp][thread_index()];
      const int32_t count = cell;
      cell = place;
      place += count;
    }
  }
  sync_threads();
  const int warp = thread_index() / kWarpThreads;
  const int lane = thread_index() % kWarpThreads;
  int32_t* const to = chunk.to + chunk.segment.start;
  for (int base = warp * kWarpRows; base < (warp + 1) * kWarpRows && base < chunk.rows; base += kWarpThreads) {
    const bool valid = base + lane < chunk.rows;
    const int32_t row = valid ? row_at(chunk, base + lane) : 0;
    const int digit = valid ? digit_of(args, chunk, row) : 0;
    const uint32_t same = same_digit(digit, args.scratch.bits, valid);
    if (valid) to[smem.counts[warp][digit] + popcount(same & ((1u << lane) - 1))] = row;
    sync_warp();
    if (valid && lane == lowest_bit(same)) smem.counts[warp][digit] += popcount(same);
    sync_warp();
  }
}

}  // namespace

int32_t launch_sort(const lacuna_hyper_plan_params& p, const Scratch& scratch, void* stream) {
  SortArgs args{p.shape, p.plan, scratch, p.q_ranks, p.k_ranks, nullptr, nullptr, p.plan.q_order, p.plan.k_order, 0};
  const int levels = p.plan.levels;
  const int64_t blocks =
      scratch.q.heads * scratch.q.first_chunk[levels] + scratch.k.heads * scratch.k.first_chunk[levels];
  const int64_t segments = (scratch.q.heads + scratch.k.heads) * ((int64_t{1} << levels) - 1);
  for (int pass = 0; pass < scratch.passes; ++pass) {
    args.shift = pass * scratch.bits;
    if (scratch.passes > 1) {
      args.q_to = pass == 0 ? scratch.q_spare : p.plan.q_order;
      args.k_to = pass == 0 ? scratch.k_spare : p.plan.k_order;
      args.q_from = pass == 0 ? nullptr : scratch.q_spare;
      args.k_from = pass == 0 ? nullptr : scratch.k_spare;
    }
    LACUNA_CHECK(launch<lsh_count_kernel>("lsh_count", blocks, kSortThreads, sizeof(SortShared), stream, args));
    LACUNA_CHECK(launch<lsh_offsets_kernel>("lsh_offsets", segments, kSortThreads, sizeof(OffsetShared), stream, args));
    LACUNA_CHECK(launch<lsh_scatter_kernel>("lsh_scatter", blocks, kSortThreads, sizeof(SortShared), stream, args));
  }
  return LACUNA_OK;
}

}  // namespace lsh
}  // namespace LACUNA_NS
