// Angular hash buckets of the rows of q and k, in f32: means of the heads, then the signs of x . P_j.
#include "common/alignment.h"
#include "common/validate.h"
#include "ptx/math.h"
#include "ptx/shared.h"
#include "ptx/thread.h"
#include "select/eight.h"
#include "select/lsh.h"

namespace LACUNA_NS {
namespace lsh {

namespace {

constexpr int kSumThreads = 256;
constexpr int kHashThreads = 128;  // a thread a row

struct HashArgs {
  lacuna_hyper_plan_params params;
  Scratch scratch;
  bool q_vectors;  // rows start on 16-byte boundaries
  bool k_vectors;
};

// Some rows of a head of q or k.
template <class T>
struct Rows {
  const T* x;       // the head's first row
  int64_t stride;   // elements from row to row
  int64_t head;     // among the heads of q, then those of k
  int64_t of_side;  // among the heads of its side
  int len;
  int part;   // which of the head's parts
  int parts;  // of a head
  bool query;
  bool vectors;
};

// Part `index` of all heads, `size` rows each.
template <class T>
__device__ __forceinline__ Rows<T> rows_of(const HashArgs& args, int64_t index, int size) {
  const lacuna_hyper_plan_params& p = args.params;
  Rows<T> rows;
  const int64_t q_parts = args.scratch.q.heads * divide_up(p.shape.q_len, size);
  rows.query = index < q_parts;
  index -= rows.query ? 0 : q_parts;
  rows.len = rows.query ? p.shape.q_len : p.shape.kv_len;
  rows.parts = divide_up(rows.len, size);
  rows.of_side = index / rows.parts;
  rows.head = rows.of_side + (rows.query ? 0 : args.scratch.q.heads);
  rows.part = static_cast<int>(index % rows.parts);
  const int heads = rows.query ? p.shape.q_heads : p.shape.kv_heads;
  const lacuna_strides& stride = rows.query ? p.q_stride : p.k_stride;
  rows.x = static_cast<const T*>(rows.query ? p.q : p.k) + rows.of_side / heads * stride.batch +
           rows.of_side % heads * stride.head;
  rows.stride = stride.seq;
  rows.vectors = rows.query ? args.q_vectors : args.k_vectors;
  return rows;
}

inline int64_t parts_of_all(const HashArgs& args, int size) {
  const lacuna_shape& shape = args.params.shape;
  return args.scratch.q.heads * divide_up(shape.q_len, size) + args.scratch.k.heads * divide_up(shape.kv_len, size);
}

// Where the sums of a part go.
__device__ __forceinline__ float* part_sums(const HashArgs& args, int64_t of_side, bool query, int part) {
  const lacuna_shape& shape = args.params.shape;
  const int64_t q_parts = divide_up(shape.q_len, kMeanRows);
  const int64_t before =
      query ? of_side * q_parts : args.scratch.q.heads * q_parts + of_side * divide_up(shape.kv_len, kMeanRows);
  return args.scratch.sums + (before + part) * shape.head_dim;
}

struct SumShared {
  float sums[kSumThreads * 8];  // [row lane][head_dim]
};

// Sums of kMeanRows rows: a thread adds up eight columns of every so many rows, then a column's lanes in their order.
template <class T>
__global__ void __launch_bounds__(kSumThreads) lsh_sums_kernel(const __grid_constant__ HashArgs args) {
  SumShared& smem = shared<SumShared>();
  const Rows<T> rows = rows_of<T>(args, block_index(), kMeanRows);
  const int dim = args.params.shape.head_dim;
  const int thread = thread_index();
  const int chunks = dim / 8;
  const int lanes = kSumThreads / chunks;
  const int lane = thread / chunks;
  const int column = thread % chunks * 8;
  if (lane < lanes) {
    const int end = rows.len - rows.part * kMeanRows < kMeanRows ? rows.len : (rows.part + 1) * kMeanRows;
    float sums[8] = {};
    for (int row = rows.part * kMeanRows + lane; row < end; row += lanes) {
      float x[8];
      load_eight(x, rows.x + row * rows.stride + column, rows.vectors);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[i] += x[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) smem.sums[lane * dim + column + i] = sums[i];
  }
  sync_threads();
  if (thread >= dim) return;
  float sum = 0.0f;
  for (int i = 0; i < lanes; ++i) sum += smem.sums[i * dim + thread];
  part_sums(args, rows.of_side, rows.query, rows.part)[thread] = sum;
}

// A block a head, a thread a column.
template <class T>
__global__ void __launch_bounds__(kMostHeadDim) lsh_means_kernel(const __grid_constant__ HashArgs args) {
  const int64_t head = block_index();
  const bool query = head < args.scratch.q.heads;
  const int64_t of_side = head - (query ? 0 : args.scratch.q.heads);
  const int len = query ? args.params.shape.q_len : args.params.shape.kv_len;
  const int dim = args.params.shape.head_dim;
  const int thread = thread_index();
  if (thread >= dim) return;
  const float* sums = part_sums(args, of_side, query, 0) + thread;
  float sum = 0.0f;
  for (int part = 0; part < divide_up(len, kMeanRows); ++part) sum += sums[static_cast<int64_t>(part) * dim];
  args.scratch.means[head * dim + thread] = sum / static_cast<float>(len);
}

template <int kBits>
struct HashShared {
  float directions[kMostHeadDim * kBits];  // zeros behind the given ones
  float mean[kMostHeadDim];
};

template <class T, int kBits>
__global__ void __launch_bounds__(kHashThreads) lsh_hash_kernel(const __grid_constant__ HashArgs args) {
  const lacuna_hyper_plan_params& p = args.params;
  HashShared<kBits>& smem = shared<HashShared<kBits>>();
  const Rows<T> rows = rows_of<T>(args, block_index(), kHashThreads);
  const int dim = p.shape.head_dim;
  for (int i = thread_index(); i < dim * kBits; i += kHashThreads) {
    const int j = i % kBits;
    smem.directions[i] = j < p.projections ? p.directions[i / kBits * p.projections + j] : 0.0f;
  }
  for (int i = thread_index(); i < dim; i += kHashThreads) {
    smem.mean[i] = p.center != 0 ? args.scratch.means[rows.head * dim + i] : 0.0f;
  }
  sync_threads();
  const int row = rows.part * kHashThreads + thread_index();
  if (row >= rows.len) return;
  const T* const from = rows.x + row * rows.stride;
  float products[kBits] = {};
  for (int column = 0; column < dim; column += 8) {
    float x[8];
    load_eight(x, from + column, rows.vectors);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float centred = x[i] - smem.mean[column + i];
#pragma unroll
      for (int j = 0; j < kBits; ++j) {
        products[j] = fused(centred, smem.directions[(column + i) * kBits + j], products[j]);
      }
    }
  }
  uint32_t code = 0;
#pragma unroll
  for (int j = 0; j < kBits; ++j) code |= (products[j] > 0.0f ? 1u : 0u) << j;
  uint32_t rank = code;
  if (p.bucket_order == LACUNA_BUCKETS_COMPAT) {
    rank ^= rank >> 1;
  } else {
    // The inverse of c ^ (c >> 1): each bit is the parity of itself and the higher ones.
    rank ^= rank >> 1;
    rank ^= rank >> 2;
    rank ^= rank >> 4;
    rank ^= rank >> 8;
  }
  uint16_t* const ranks = rows.query ? p.q_ranks : p.k_ranks;
  ranks[rows.of_side * rows.len + row] = static_cast<uint16_t>(rank);
}

HashArgs hash_args(const lacuna_hyper_plan_params& p, const Scratch& scratch) {
  return HashArgs{p, scratch, row_starts_aligned(p.q, p.q_stride, 16), row_starts_aligned(p.k, p.k_stride, 16)};
}

template <class T>
int32_t means_of(const HashArgs& args, void* stream) {
  const int64_t heads = args.scratch.q.heads + args.scratch.k.heads;
  LACUNA_CHECK(launch<lsh_sums_kernel<T>>("lsh_sums", parts_of_all(args, kMeanRows), kSumThreads, sizeof(SumShared),
                                          stream, args));
  return launch<lsh_means_kernel<T>>("lsh_means", heads, kMostHeadDim, 0, stream, args);
}

template <class T, int kBits>
int32_t hash_of(const HashArgs& args, void* stream) {
  return launch<lsh_hash_kernel<T, kBits>>("lsh_hash", parts_of_all(args, kHashThreads), kHashThreads,
                                           sizeof(HashShared<kBits>), stream, args);
}

}  // namespace

int32_t launch_means(const lacuna_hyper_plan_params& params, const Scratch& scratch, void* stream) {
  const HashArgs args = hash_args(params, scratch);
  return params.shape.dtype == LACUNA_F16 ? means_of<Half>(args, stream) : means_of<BFloat16>(args, stream);
}

int32_t launch_hash(const lacuna_hyper_plan_params& params, const Scratch& scratch, void* stream) {
  const HashArgs args = hash_args(params, scratch);
  const bool few = params.projections <= 8;
  if (params.shape.dtype == LACUNA_F16) return few ? hash_of<Half, 8>(args, stream) : hash_of<Half, 16>(args, stream);
  return few ? hash_of<BFloat16, 8>(args, stream) : hash_of<BFloat16, 16>(args, stream);
}

}  // namespace lsh
}  // namespace LACUNA_NS
