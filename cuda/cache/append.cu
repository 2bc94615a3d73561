// New keys and values into the pages of a cache that keeps only blocks which its pattern still reaches. A thread block
// has one block of keys of one KV head of one sequence; the first one of a head also drops what is out of reach.
#include "common/alignment.h"
#include "common/validate.h"
#include "families.h"
#include "ptx/launch.h"
#include "ptx/thread.h"

namespace LACUNA_NS {

namespace {

constexpr int kThreads = 128;
constexpr int kChunk = 8;  // elements of 16 bytes

struct AppendArgs {
  lacuna_cache_append_params p;
  int32_t touched;  // blocks that the new tokens of a sequence can touch
  bool k_vectors;   // rows start on 16-byte boundaries
  bool v_vectors;
};

struct alignas(16) Chunk {
  uint32_t words[4];
};

// Rows [first, end) of a tensor of 16-bit elements to packed rows.
__device__ __forceinline__ void copy_rows(uint16_t* to, const uint16_t* from, int64_t stride, int rows, int dim,
                                          bool vectors) {
  const int chunks = dim / kChunk;
  for (int piece = thread_index(); piece < rows * chunks; piece += kThreads) {
    const int row = piece / chunks;
    const int column = piece % chunks * kChunk;
    uint16_t* const target = to + static_cast<int64_t>(row) * dim + column;
    const uint16_t* const source = from + row * stride + column;
    if (vectors) {
      *reinterpret_cast<Chunk*>(target) = *reinterpret_cast<const Chunk*>(source);
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) target[i] = source[i];
    }
  }
}

__global__ void __launch_bounds__(kThreads) cache_append_kernel(const __grid_constant__ AppendArgs args) {
  const lacuna_cache_append_params& p = args.p;
  const int touched = block_index() % args.touched;
  const int head = block_index() / args.touched % p.kv_heads;
  const int sequence = block_index() / args.touched / p.kv_heads;

  // Positions of the new tokens; those before the first key or beyond the last block have no place.
  const int added = p.added == nullptr ? p.len : p.added[sequence];
  const int64_t end = p.kv_lens[sequence];
  const int64_t begin = end - (added < 0 ? 0 : added > p.len ? p.len : added);
  const int64_t room = static_cast<int64_t>(p.blocks) * p.block;
  const int64_t low = begin < 0 ? 0 : begin;
  const int64_t high = end < room ? end : room;
  if (low >= high) return;
  const int64_t next = end - p.queries;  // the first query that has yet to attend
  const int first_row = next < 0 ? 0 : static_cast<int>(next / p.block);
  const int first_block = static_cast<int>(low / p.block);

  const int32_t* const homes = p.homes + static_cast<int64_t>(head) * p.blocks;
  const int32_t* const last_rows = p.last_rows + static_cast<int64_t>(head) * p.blocks;
  int32_t* const table = p.block_table + (static_cast<int64_t>(sequence) * p.kv_heads + head) * p.blocks;
  if (touched == 0) {
    const int from = first_block > p.reach ? first_block - p.reach : 0;
    for (int old = from + thread_index(); old < first_block; old += kThreads) {
      if (last_rows[old] < first_row) table[old] = -1;
    }
  }
  const int block = first_block + touched;
  const int64_t start = static_cast<int64_t>(block) * p.block;
  if (start >= high) return;
  const int32_t home = homes[block];
  const bool kept = last_rows[block] >= first_row && home >= 0 && home < p.sequence_pages;
  const int page = kept ? sequence * p.sequence_pages + home : -1;
  if (thread_index() == 0) table[block] = page;
  if (!kept) return;

  const int64_t row = low > start ? low : start;
  const int64_t stop = start + p.block < high ? start + p.block : high;
  const int64_t target = (static_cast<int64_t>(page) * p.block + (row - start)) * p.head_dim;
  const int rows = static_cast<int>(stop - row);
  const auto source = [&](const void* base, const lacuna_strides& stride) {
    return static_cast<const uint16_t*>(base) + sequence * stride.batch + head * stride.head +
           (row - begin) * stride.seq;
  };
  copy_rows(static_cast<uint16_t*>(p.k_pages) + target, source(p.k, p.k_stride), p.k_stride.seq, rows, p.head_dim,
            args.k_vectors);
  copy_rows(static_cast<uint16_t*>(p.v_pages) + target, source(p.v, p.v_stride), p.v_stride.seq, rows, p.head_dim,
            args.v_vectors);
}

}  // namespace

int32_t cache_append(const lacuna_cache_append_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "cache_append: null argument");
  const lacuna_cache_append_params& p = *params;
  constexpr int kMost = 1 << 30;
  LACUNA_REQUIRE(p.batch >= 1 && p.batch <= kMost && p.kv_heads >= 1 && p.kv_heads <= kMost,
                 "batch and kv_heads must be in 1..=2^30, got %d and %d", p.batch, p.kv_heads);
  LACUNA_REQUIRE(p.head_dim >= kChunk && p.head_dim <= 1 << 16 && p.head_dim % kChunk == 0,
                 "head_dim must be a multiple of 8 in 8..=65536, got %d", p.head_dim);
  LACUNA_REQUIRE(is_block_size(p.block), "block must be 16, 32, 64 or 128, got %d", p.block);
  LACUNA_REQUIRE(p.len >= 0 && p.len <= kMost, "len must be in 0..=2^30, got %d", p.len);
  LACUNA_REQUIRE(p.blocks >= 1 && p.blocks <= 1 << 24, "blocks must be in 1..=2^24, got %d", p.blocks);
  LACUNA_REQUIRE(p.queries >= 0 && p.queries <= kMost && p.reach >= 0, "queries and reach must be >= 0, got %d and %d",
                 p.queries, p.reach);
  LACUNA_REQUIRE(p.sequence_pages >= 0 && static_cast<int64_t>(p.batch) * p.sequence_pages <= kMost,
                 "pages of all sequences must be in 0..=2^30, got %d times %d", p.batch, p.sequence_pages);
  LACUNA_REQUIRE(p.kv_lens != nullptr && p.homes != nullptr && p.last_rows != nullptr && p.block_table != nullptr,
                 "kv_lens, homes, last_rows or block_table is null");
  if (p.len == 0) return LACUNA_OK;
  LACUNA_REQUIRE(p.k != nullptr && p.v != nullptr, "k or v is null");
  LACUNA_REQUIRE(p.sequence_pages == 0 || (p.k_pages != nullptr && p.v_pages != nullptr), "k_pages or v_pages is null");

  AppendArgs args = {};
  args.p = p;
  // Tokens of a call that starts inside a block touch one more.
  const int touched = (p.len + p.block - 2) / p.block + 1;
  args.touched = touched < p.blocks ? touched : p.blocks;
  const lacuna_strides packed = {0, 0, p.head_dim};
  args.k_vectors = row_starts_aligned(p.k, p.k_stride, 16) && row_starts_aligned(p.k_pages, packed, 16);
  args.v_vectors = row_starts_aligned(p.v, p.v_stride, 16) && row_starts_aligned(p.v_pages, packed, 16);
  const int64_t heads = static_cast<int64_t>(p.batch) * p.kv_heads;
  const int64_t blocks = heads > 0x7fffffff ? heads : heads * args.touched;
  return launch<cache_append_kernel>("cache_append", blocks, kThreads, 0, stream, args);
}

}  // namespace LACUNA_NS
