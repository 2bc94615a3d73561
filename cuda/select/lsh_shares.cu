// Shares of the keys in samples drawn by values: 1 + floor(4095 * n / n_max), n being the squared norm of a row of v,
// and their sums, in whole numbers, so that the weight of a sample is exact.
#include "common/alignment.h"
#include "common/validate.h"
#include "ptx/math.h"
#include "select/eight.h"
#include "select/lsh.h"
#include "select/scan.h"

namespace LACUNA_NS {
namespace lsh {

namespace {

constexpr int kThreads = kScanThreads;
constexpr int kRounds = kShareRows / kThreads;  // rows of a thread
constexpr float kMostShares = 4095.0f;          // beside the one that every key has

struct ShareArgs {
  lacuna_hyper_plan_params params;
  Scratch scratch;
  bool vectors;  // rows of v start on 16-byte boundaries
};

// kShareRows rows of a head; a block has one.
struct Part {
  int64_t head;
  int parts;  // of a head
  int part;
  int first;  // row
  int end;

  __device__ __forceinline__ explicit Part(const ShareArgs& args) {
    const int len = args.params.shape.kv_len;
    parts = divide_up(len, kShareRows);
    head = block_index() / parts;
    part = static_cast<int>(block_index() % parts);
    first = part * kShareRows;
    end = len - first < kShareRows ? len : first + kShareRows;
  }
};

struct MostShared {
  float most[kThreads];
};

// The largest number of the block, which is no NaN.
__device__ __forceinline__ float block_most(float (&most)[kThreads], float value) {
  const int thread = thread_index();
  most[thread] = value;
  sync_threads();
  for (int distance = kThreads / 2; distance > 0; distance /= 2) {
    if (thread < distance && most[thread + distance] > most[thread]) most[thread] = most[thread + distance];
    sync_threads();
  }
  return most[0];
}

template <class T>
__global__ void __launch_bounds__(kThreads) lsh_norms_kernel(const __grid_constant__ ShareArgs args) {
  const lacuna_hyper_plan_params& p = args.params;
  MostShared& smem = shared<MostShared>();
  const Part part(args);
  const T* const v = static_cast<const T*>(p.v) + part.head / p.shape.kv_heads * p.v_stride.batch +
                     part.head % p.shape.kv_heads * p.v_stride.head;
  float most = 0.0f;
  for (int row = part.first + thread_index(); row < part.end; row += kThreads) {
    float norm = 0.0f;
    for (int column = 0; column < p.shape.head_dim; column += 8) {
      float x[8];
      load_eight(x, v + row * p.v_stride.seq + column, args.vectors);
#pragma unroll
      for (int i = 0; i < 8; ++i) norm = fused(x[i], x[i], norm);
    }
    args.scratch.norms[part.head * p.shape.kv_len + row] = norm;
    most = norm > most ? norm : most;
  }
  most = block_most(smem.most, most);
  if (thread_index() == 0) args.scratch.most[part.head * part.parts + part.part] = most;
}

// Infinity among the norms, or zeros alone, give quotients that are no numbers.
__device__ __forceinline__ int share_of(float norm, float most) {
  const float quotient = norm / most;
  return quotient > 0.0f ? 1 + static_cast<int>(quotient * kMostShares) : 1;
}

union SumShared {
  float most[kThreads];
  int64_t sums[kThreads];
};

__global__ void __launch_bounds__(kThreads) lsh_shares_kernel(const __grid_constant__ ShareArgs args) {
  SumShared& smem = shared<SumShared>();
  const Part part(args);
  const float* const parts = args.scratch.most + part.head * part.parts;
  float most = 0.0f;
  for (int i = thread_index(); i < part.parts; i += kThreads) most = parts[i] > most ? parts[i] : most;
  most = block_most(smem.most, most);
  sync_threads();
  const int64_t rows = part.head * args.params.shape.kv_len;
  int64_t sum = 0;
  for (int row = part.first + thread_index(); row < part.end; row += kThreads) {
    const int share = share_of(args.scratch.norms[rows + row], most);
    args.params.v_shares[rows + row] = static_cast<uint16_t>(share);
    sum += share;
  }
  const int64_t before = block_scan(smem.sums, sum);
  if (thread_index() == kThreads - 1) args.scratch.share_sums[part.head * part.parts + part.part] = before + sum;
}

__global__ void __launch_bounds__(kThreads) lsh_share_ends_kernel(const __grid_constant__ ShareArgs args) {
  SumShared& smem = shared<SumShared>();
  const Part part(args);
  const int64_t* const parts = args.scratch.share_sums + part.head * part.parts;
  const int64_t rows = part.head * args.params.shape.kv_len;
  // Each thread has consecutive rows, and some of the parts before.
  const int first = part.first + thread_index() * kRounds;
  int64_t earlier = 0;
  for (int i = thread_index(); i < part.part; i += kThreads) earlier += parts[i];
  int64_t sum = 0;
  for (int row = first; row < first + kRounds && row < part.end; ++row) sum += args.params.v_shares[rows + row];
  int64_t at = block_scan(smem.sums, earlier);
  if (thread_index() == kThreads - 1) smem.sums[0] = at + earlier;
  sync_threads();
  at = smem.sums[0];
  sync_threads();
  at += block_scan(smem.sums, sum);
  for (int row = first; row < first + kRounds && row < part.end; ++row) {
    at += args.params.v_shares[rows + row];
    args.scratch.share_ends[rows + row] = at;
  }
}

}  // namespace

int32_t launch_shares(const lacuna_hyper_plan_params& p, const Scratch& scratch, void* stream) {
  const ShareArgs args{p, scratch, row_starts_aligned(p.v, p.v_stride, 16)};
  const int64_t parts = scratch.k.heads * divide_up(p.shape.kv_len, kShareRows);
  LACUNA_CHECK(
      p.shape.dtype == LACUNA_F16
          ? (launch<lsh_norms_kernel<Half>>("lsh_norms", parts, kThreads, sizeof(MostShared), stream, args))
          : (launch<lsh_norms_kernel<BFloat16>>("lsh_norms", parts, kThreads, sizeof(MostShared), stream, args)));
  LACUNA_CHECK(launch<lsh_shares_kernel>("lsh_shares", parts, kThreads, sizeof(SumShared), stream, args));
  return launch<lsh_share_ends_kernel>("lsh_share_ends", parts, kThreads, sizeof(SumShared), stream, args);
}

}  // namespace lsh
}  // namespace LACUNA_NS
