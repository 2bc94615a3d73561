// Pools of blocks of tokens: a thread block reads the tokens of a block of the sequence once, in a ring of small
// stages, and each thread runs over two columns of them in token order.
#include "families.h"
#include "ptx/cp_async.h"
#include "ptx/cvt.h"
#include "ptx/math.h"
#include "ptx/shared.h"
#include "ptx/shuffle.h"
#include "select/gate_validate.h"

namespace LACUNA_NS {

namespace {

constexpr int kStageTokens = 32;
constexpr int kStages = 2;
// Tokens of a thread block where every token is a row.
constexpr int kRowTokens = 64;
constexpr int kChunk = 8;  // elements of a 16-byte copy

struct PoolArgs {
  lacuna_gate_pool_params p;
  int32_t groups;   // thread blocks a (sequence, head)
  int32_t tokens;   // of a thread block
  int32_t vectors;  // rows of x start at multiples of 16 bytes
};

// The pools of two columns so far.
struct Pools {
  float most[2];
  float most_negative[2];  // the maximum of -x
  float sum[2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      most[i] = minus_infinity();
      most_negative[i] = minus_infinity();
      sum[i] = 0.0f;
    }
  }

  __device__ __forceinline__ void add(int i, float x) {
    most[i] = max_float(most[i], x);
    most_negative[i] = max_float(most_negative[i], -x);
    sum[i] += x;
  }

  // `state`: [3, dim] at the first of the two columns.
  __device__ __forceinline__ void load(const float* state, int dim) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      most[i] = state[i];
      most_negative[i] = -state[dim + i];
      sum[i] = state[2 * dim + i];
    }
  }

  __device__ __forceinline__ void store_state(float* state, int dim) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      state[i] = most[i];
      state[dim + i] = -most_negative[i];
      state[2 * dim + i] = sum[i];
    }
  }

  // `row`: [pools, dim] at the first of the two columns.
  __device__ __forceinline__ void store_row(float* row, int dim, int pools, int count) const {
    if ((pools & LACUNA_POOL_MAX) != 0) {
      row[0] = most[0];
      row[1] = most[1];
      row += dim;
    }
    if ((pools & LACUNA_POOL_MIN) != 0) {
      row[0] = -most_negative[0];
      row[1] = -most_negative[1];
      row += dim;
    }
    if ((pools & LACUNA_POOL_AVG) != 0) {
      row[0] = sum[0] / static_cast<float>(count);
      row[1] = sum[1] / static_cast<float>(count);
    }
  }
};

template <class T>
struct Pair {
  alignas(4) T x[2];
};

// A thread block's place: rows of x, features and state of its (sequence, head).
template <class T>
struct Place {
  const T* x;
  float* features;
  float* open;  // null: none
};

template <class T>
__device__ __forceinline__ void load_stage(const PoolArgs& args, T* stage, const T* x, int first, int end) {
  const int dim = args.p.dim;
  const int chunks = dim / kChunk;
  const int threads = (dim / 2 + kWarpThreads - 1) / kWarpThreads * kWarpThreads;
  const int tokens = end - first < kStageTokens ? end - first : kStageTokens;
  int token = thread_index() / chunks;
  int chunk = thread_index() % chunks;
  while (token < tokens) {
    T* const to = stage + token * dim + chunk * kChunk;
    const T* const from = x + (first + token) * args.p.x_stride.seq + chunk * kChunk;
    if (args.vectors != 0) {
      cp_async_16(shared_address(to), from, 16);
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) to[i] = from[i];
    }
    token += threads / chunks;
    chunk += threads % chunks;
    if (chunk >= chunks) {
      chunk -= chunks;
      ++token;
    }
  }
}

// Tokens [first, end) of the call, at positions from span.start on: one row of features, or with kEachToken one a
// token.
template <class T, bool kEachToken>
__device__ __forceinline__ void pool_tokens(const PoolArgs& args, const Place<T>& place, const Span& span, int first,
                                            int end, int row) {
  const lacuna_gate_pool_params& p = args.p;
  T* const ring = &shared<T>();
  const int stage_elements = kStageTokens * p.dim;
  const int column = 2 * thread_index();
  const int width = popcount(static_cast<uint32_t>(p.pools)) * p.dim;

  Pools pools;
  pools.clear();
  const int block_begin = (span.first_block + row) * p.span.block - span.start;  // as a token of the call
  const bool resumed = !kEachToken && place.open != nullptr && block_begin < 0;
  if (resumed && column < p.dim) pools.load(place.open + column, p.dim);

#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) {
    load_stage(args, ring + stage * stage_elements, place.x, first + stage * kStageTokens, end);
    cp_async_commit();
  }
  int stage = 0;
  for (int at = first; at < end; at += kStageTokens) {
    cp_async_wait<kStages - 1>();
    sync_threads();
    if (column < p.dim) {
      const int tokens = end - at < kStageTokens ? end - at : kStageTokens;
      const T* from = ring + stage * stage_elements + column;
      for (int token = 0; token < tokens; ++token) {
        const Pair<T> pair = *reinterpret_cast<const Pair<T>*>(from + token * p.dim);
        if constexpr (kEachToken) pools.clear();
        pools.add(0, to_float(pair.x[0]));
        pools.add(1, to_float(pair.x[1]));
        if constexpr (kEachToken) {
          const int64_t feature = static_cast<int64_t>(at) + token;
          if (feature < p.rows) pools.store_row(place.features + feature * width + column, p.dim, p.pools, 1);
        }
      }
    }
    if (at + kStages * kStageTokens < end) {
      sync_threads();  // this stage has been read
      load_stage(args, ring + stage * stage_elements, place.x, at + kStages * kStageTokens, end);
    }
    cp_async_commit();
    stage = stage + 1 < kStages ? stage + 1 : 0;
  }
  if constexpr (!kEachToken) {
    if (column >= p.dim) return;
    // A block's count follows from positions, whatever pieces it came in.
    const int count = resumed ? end - block_begin : end - first;
    if (row < p.rows) {
      pools.store_row(place.features + static_cast<int64_t>(row) * width + column, p.dim, p.pools, count);
    }
    if (place.open != nullptr && end < block_begin + p.span.block) pools.store_state(place.open + column, p.dim);
  }
}

template <class T, bool kEachToken>
__global__ void __launch_bounds__(kMaxGateDim / 2) gate_pool_kernel(const __grid_constant__ PoolArgs args) {
  const lacuna_gate_pool_params& p = args.p;
  const int group = block_index() % args.groups;
  const int head = block_index() / args.groups % p.heads;
  const int sequence = block_index() / args.groups / p.heads;
  const Span span = sequence_span(p.span, sequence);
  const int64_t index = static_cast<int64_t>(sequence) * p.heads + head;
  const int width = popcount(static_cast<uint32_t>(p.pools)) * p.dim;
  const Place<T> place{
      static_cast<const T*>(p.x) + sequence * p.x_stride.batch + head * p.x_stride.head,
      p.features + index * p.rows * width,
      p.open == nullptr ? nullptr : p.open + index * 3 * p.dim,
  };
  if constexpr (kEachToken) {
    const int begin = group * args.tokens;
    const int end = span.len - begin < args.tokens ? span.len : begin + args.tokens;
    const int first = begin < -span.start ? -span.start : begin;
    if (first < end) pool_tokens<T, true>(args, place, span, first, end, 0);
  } else {
    // The block that the call leaves open overwrites the state from which the first block resumes: where both are
    // there, the thread block of the first one does both.
    const int last = span.rows - 1;
    const bool leaves_open = place.open != nullptr && (span.start + span.len) % p.span.block != 0;
    const bool resumes = place.open != nullptr && span.start > 0 && span.start % p.span.block != 0;
    const bool both = leaves_open && resumes && last > 0;
    if (group > last || (both && group == last)) return;
    for (int row = group; row <= last; row = last) {
      if (span.has(row) && (row < p.rows || (row == last && leaves_open))) {
        const int begin = (span.first_block + row) * p.span.block - span.start;
        const int end = begin + p.span.block < span.len ? begin + p.span.block : span.len;
        pool_tokens<T, false>(args, place, span, begin < 0 ? 0 : begin, end, row);
      }
      if (!both || group != 0 || row == last) return;
      sync_threads();  // the ring is free
    }
  }
}

template <class T>
int32_t launch_pool(const PoolArgs& args, int64_t blocks, void* stream) {
  const int dim = args.p.dim;
  const int threads = (dim / 2 + kWarpThreads - 1) / kWarpThreads * kWarpThreads;
  const int tokens = args.tokens < kStageTokens ? args.tokens : kStageTokens;
  const int stages = args.tokens > kStageTokens ? kStages : 1;
  const size_t smem_bytes = sizeof(T) * stages * tokens * dim;
  if (args.p.span.block == 1) {
    return launch<gate_pool_kernel<T, true>>("gate_pool_rows", blocks, threads, smem_bytes, stream, args);
  }
  return launch<gate_pool_kernel<T, false>>("gate_pool", blocks, threads, smem_bytes, stream, args);
}

}  // namespace

int32_t gate_pool(const lacuna_gate_pool_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "gate_pool: null argument");
  const lacuna_gate_pool_params& p = *params;
  LACUNA_CHECK(check_gate_span(p.span));
  LACUNA_REQUIRE(p.heads >= 1 && p.heads <= kMaxPosition, "heads must be in 1..2^30, got %d", p.heads);
  LACUNA_REQUIRE(p.dim >= kChunk && p.dim <= kMaxGateDim && p.dim % kChunk == 0,
                 "dim must be a multiple of 8 in 8..=256, got %d", p.dim);
  LACUNA_REQUIRE(p.dtype == LACUNA_F16 || p.dtype == LACUNA_BF16, "dtype must be f16 (0) or bf16 (1), got %d", p.dtype);
  LACUNA_REQUIRE(p.pools >= 1 && p.pools <= (LACUNA_POOL_MAX | LACUNA_POOL_MIN | LACUNA_POOL_AVG),
                 "pools must be bits of max (1), min (2) and avg (4), at least one, got %d", p.pools);
  LACUNA_REQUIRE(p.rows >= 0, "rows must be >= 0, got %d", p.rows);
  if (p.span.len == 0) return LACUNA_OK;
  LACUNA_REQUIRE(p.x != nullptr && (p.features != nullptr || p.rows == 0), "x or features is null");

  PoolArgs args = {};
  args.p = p;
  args.tokens = p.span.block == 1 ? kRowTokens : p.span.block;
  args.groups = static_cast<int32_t>(
      p.span.block == 1 ? (static_cast<int64_t>(p.span.len) + kRowTokens - 1) / kRowTokens : span_max_rows(p.span));
  const int64_t element = sizeof(Half);
  args.vectors = allows_vectors(p.x, p.x_stride.batch * element) && allows_vectors(p.x, p.x_stride.head * element) &&
                 allows_vectors(p.x, p.x_stride.seq * element);
  const int64_t blocks = grid_product(grid_product(p.span.batch, p.heads), args.groups);
  return p.dtype == LACUNA_BF16 ? launch_pool<BFloat16>(args, blocks, stream) : launch_pool<Half>(args, blocks, stream);
}

}  // namespace LACUNA_NS
