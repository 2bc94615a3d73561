// What samples are drawn by where the norms of values count: norms in whole parts of the head's largest, and their sums
// in the sorted order of each pair's keys. Sums of whole numbers depend on no order of addition.
#include "common/alignment.h"
#include "common/validate.h"
#include "ptx/cvt.h"
#include "ptx/math.h"
#include "ptx/shared.h"
#include "ptx/thread.h"
#include "select/lsh.h"
#include "select/scan.h"

namespace LACUNA_NS {
namespace lsh {

namespace {

constexpr int kNormThreads = 128;  // a thread a row
constexpr float kLargest = 3.4028234664e38f;

struct ValueArgs {
  lacuna_hyper_plan_params params;
  float* norms;
  uint32_t* sums;
};

struct WeightShared {
  float largest[kScanThreads];
};

struct SumShared {
  int64_t sums[kScanThreads];
};

template <class T>
__global__ void __launch_bounds__(kNormThreads) lsh_norms_kernel(const __grid_constant__ ValueArgs args) {
  const lacuna_hyper_plan_params& p = args.params;
  const int parts = divide_up(p.shape.kv_len, kNormThreads);
  const int64_t head = block_index() / parts;
  const int row = static_cast<int>(block_index() % parts) * kNormThreads + thread_index();
  if (row >= p.shape.kv_len) return;
  const T* const from = static_cast<const T*>(p.v) + head / p.shape.kv_heads * p.v_stride.batch +
                        head % p.shape.kv_heads * p.v_stride.head + row * p.v_stride.seq;
  float squares = 0.0f;
  for (int column = 0; column < p.shape.head_dim; ++column) {
    const float x = to_float(from[column]);
    squares = fused(x, x, squares);
  }
  // Not finite, or squares that are not: as large as can be.
  args.norms[head * p.shape.kv_len + row] = squares <= kLargest ? square_root(squares) : kLargest;
}

// A block a head.
__global__ void __launch_bounds__(kScanThreads) lsh_value_weights_kernel(const __grid_constant__ ValueArgs args) {
  const lacuna_hyper_plan_params& p = args.params;
  WeightShared& smem = shared<WeightShared>();
  const int len = p.shape.kv_len;
  const float* const norms = args.norms + block_index() * static_cast<int64_t>(len);
  uint16_t* const weights = p.v_weights + block_index() * static_cast<int64_t>(len);
  float largest = 0.0f;
  for (int row = thread_index(); row < len; row += kScanThreads) largest = max_float(largest, norms[row]);
  smem.largest[thread_index()] = largest;
  sync_threads();
  for (int i = 0; i < kScanThreads; ++i) largest = max_float(largest, smem.largest[i]);
  const uint32_t fits = 0xffffffffu / static_cast<uint32_t>(len);
  const float most = static_cast<float>(fits < 65535u ? fits : 65535u);
  for (int row = thread_index(); row < len; row += kScanThreads) {
    const float share = largest == 0.0f ? 0.0f : norms[row] / largest;
    weights[row] = static_cast<uint16_t>(static_cast<uint32_t>(fused(share, most, 0.5f)));
  }
}

// A block a pair and head; each thread owns a run of consecutive places.
__global__ void __launch_bounds__(kScanThreads) lsh_value_sums_kernel(const __grid_constant__ ValueArgs args) {
  const lacuna_hyper_plan_params& p = args.params;
  SumShared& smem = shared<SumShared>();
  const int64_t heads = static_cast<int64_t>(p.shape.batch) * p.shape.kv_heads;
  const int64_t number = block_index() / heads;
  const int64_t head = block_index() % heads;
  int level = 0;
  while (number >= pair_number(level + 1, 0)) ++level;
  const Segment keys = gather_pair(p.shape, p.plan, level, static_cast<int>(number - pair_number(level, 0))).keys;
  if (keys.len == 0) return;
  const int64_t first = (level * heads + head) * p.shape.kv_len + keys.start;
  const int32_t* const order = p.plan.k_order + first;
  const uint16_t* const weights = p.v_weights + head * p.shape.kv_len;
  uint32_t* const sums = args.sums + first;
  const int64_t begin = static_cast<int64_t>(keys.len) * thread_index() / kScanThreads;
  const int64_t end = static_cast<int64_t>(keys.len) * (thread_index() + 1) / kScanThreads;
  int64_t total = 0;
  for (int64_t place = begin; place < end; ++place) total += weights[order[place]];
  int64_t sum = block_scan(smem.sums, total);
  for (int64_t place = begin; place < end; ++place) {
    sum += weights[order[place]];
    sums[place] = static_cast<uint32_t>(sum);
  }
}

}  // namespace

int32_t launch_values(const lacuna_hyper_plan_params& p, const Scratch& scratch, void* stream) {
  const ValueArgs args{p, scratch.norms, scratch.value_sums};
  const int64_t heads = static_cast<int64_t>(p.shape.batch) * p.shape.kv_heads;
  const int64_t blocks = heads * divide_up(p.shape.kv_len, kNormThreads);
  const int64_t pairs = (int64_t{1} << p.plan.levels) - 1;
  if (p.shape.dtype == LACUNA_F16) {
    LACUNA_CHECK(launch<lsh_norms_kernel<Half>>("lsh_norms", blocks, kNormThreads, 0, stream, args));
  } else {
    LACUNA_CHECK(launch<lsh_norms_kernel<BFloat16>>("lsh_norms", blocks, kNormThreads, 0, stream, args));
  }
  LACUNA_CHECK(
      launch<lsh_value_weights_kernel>("lsh_value_weights", heads, kScanThreads, sizeof(WeightShared), stream, args));
  return launch<lsh_value_sums_kernel>("lsh_value_sums", pairs * heads, kScanThreads, sizeof(SumShared), stream, args);
}

}  // namespace lsh
}  // namespace LACUNA_NS
