// TMA loads: where the elements of a box lie, what outside of the tensor means, misuse. Tensor maps.
#include "tensor_params.h"

namespace lacuna_simt {

namespace {

constexpr int kMostBoxBytes = 2 * 64 * kBoxRows * kBoxHeads;

struct Stage {
  alignas(1024) uint16_t element[kMostBoxBytes / 2];
  Mbarrier full;
};

__device__ void load(const TensorParams& p, const TensorMap& map, Stage& stage, uint32_t destination) {
  const TestParams& t = p.test;
  tma_load_4d(destination, map, stage.full, coordinate(t, 0), coordinate(t, 1), coordinate(t, 2), coordinate(t, 3),
              kEvictNormal);
}

// All threads write the stage as it lies in shared memory to tile `index` of the target.
__device__ void write_stage(const TestParams& p, const Stage& stage, int index) {
  const int words = box_size(p) / 4;
  for (int i = thread_index(); i < words; i += static_cast<int>(p.threads)) {
    uint32_t word;
    memcpy(&word, &stage.element[2 * i], 4);
    target_words(p)[index * words + i] = word;
  }
}

__device__ void init(Stage& stage) {
  if (thread_index() == 0) mbarrier_init(stage.full, 1);
  fence_mbarrier_init();
  sync_threads();
}

// Planted: nobody waits.
template <bool kPlanted>
__global__ void load_box(const __grid_constant__ TensorParams p) {
  Stage& stage = shared<Stage>();
  init(stage);
  if (thread_index() == 0) {
    mbarrier_arrive_expect(stage.full, box_size(p.test));
    load(p, p.from, stage, shared_address(stage.element));
  }
  if (!kPlanted) mbarrier_wait(stage.full, 0);
  write_stage(p.test, stage, 0);
  if (kPlanted) {
    sync_threads();
    mbarrier_wait(stage.full, 0);
  }
}

enum : int64_t {
  kMisaligned,        // by 16 bytes
  kInsidePattern,     // aligned for a copy, not for the swizzle
  kPastSharedMemory,  // its last row
  kNoMap,             // never encoded
  kNoBarrier,         // never initialised
  kExpectsTooMuch,
  kExpectsTooLittle,
  kNobodyWaits,
  kOtherRank,  // from here on the map is wrong
  kRowPastTheBuffer,
  kShortRows
};

void alter(const TestParams& p, TensorMapSpec& spec) {
  switch (bug_of(p)) {
    case kOtherRank:
      spec.rank = 3;
      break;
    case kRowPastTheBuffer:
      spec.dims[3] += 1;
      break;
    case kShortRows:
      spec.box[0] = 32;
      break;
    default:
      break;
  }
}

// Planted: what `variant` says.
template <bool kPlanted>
__global__ void bad_load(const __grid_constant__ TensorParams p) {
  Stage& stage = shared<Stage>();
  init(stage);
  const int64_t bug = kPlanted ? bug_of(p.test) : -1;
  const int bytes = box_size(p.test);
  const TensorMap nothing = {};
  uint32_t destination = shared_address(stage.element);
  if (bug == kMisaligned) destination += 16;
  if (bug == kInsidePattern) destination += 128;
  if (bug == kPastSharedMemory) destination += 1024;
  if (thread_index() == 0) {
    mbarrier_arrive_expect(stage.full, bug == kExpectsTooMuch     ? bytes + 16
                                       : bug == kExpectsTooLittle ? bytes - 16
                                                                  : bytes);
    Mbarrier& barrier = bug == kNoBarrier ? (&stage.full)[1] : stage.full;
    const int outer = bug == kRowPastTheBuffer ? kOuter : 0;
    tma_load_4d(destination, bug == kNoMap ? nothing : p.from, barrier, 0, 0, 0, outer, kEvictNormal);
  }
  if (bug != kNobodyWaits) mbarrier_wait(stage.full, 0);
  if (bug != kNobodyWaits) write_stage(p.test, stage, 0);
}

// The same stage twice. Planted: it is filled again while others still read.
template <bool kPlanted>
__global__ void refill(const __grid_constant__ TensorParams p) {
  Stage& stage = shared<Stage>();
  init(stage);
  for (int i = 0; i < 2; ++i) {
    if (thread_index() == 0) {
      mbarrier_arrive_expect(stage.full, box_size(p.test));
      load(p, p.from, stage, shared_address(stage.element));
    }
    mbarrier_wait(stage.full, static_cast<uint32_t>(i));
    write_stage(p.test, stage, i);
    if (!kPlanted) sync_threads();
  }
}

// Legal: the map and the thread that issued may go before the load is done.
__global__ void map_goes(const __grid_constant__ TensorParams p) {
  Stage& stage = shared<Stage>();
  init(stage);
  if (thread_index() == 0) {
    TensorMap map = p.from;
    mbarrier_arrive_expect(stage.full, box_size(p.test));
    load(p, map, stage, shared_address(stage.element));
    for (uint64_t& word : map.opaque) *const_cast<volatile uint64_t*>(&word) = 0;
    return;
  }
  mbarrier_wait(stage.full, 0);
  write_stage(p.test, stage, 0);
}

// Encodes a map from the source's words: rank, swizzle, offset of the address, then the low and high words of sizes,
// strides, and boxes of five dimensions.
int32_t encode(const char*, const TestParams& params, void*) {
  const uint32_t* const word = source_words(params);
  TensorMapSpec spec = {};
  spec.base = static_cast<const unsigned char*>(params.target) + word[2];
  spec.rank = static_cast<int>(word[0]);
  spec.swizzle = static_cast<Swizzle>(word[1]);
  for (int i = 0; i < kMaxTensorRank; ++i) {
    spec.dims[i] = word[3 + 2 * i] | static_cast<uint64_t>(word[4 + 2 * i]) << 32;
    spec.stride_bytes[i] = word[13 + 2 * i] | static_cast<uint64_t>(word[14 + 2 * i]) << 32;
    spec.box[i] = word[23 + i];
  }
  TensorMap map;
  return encode_tensor_map(&map, spec);
}

const TestKernel kKernels[] = {
    {"load_box", start_tensor<load_box<true>>, start_tensor<load_box<false>>},
    {"bad_load", start_tensor<bad_load<true>, alter>, start_tensor<bad_load<false>>},
    {"refill", start_tensor<refill<true>>, start_tensor<refill<false>>},
    {"map_goes", nullptr, start_tensor<map_goes>},
    {"encode", nullptr, encode},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_tensor_loads, lacuna_simt::kKernels)
