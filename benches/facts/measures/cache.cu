// L2 to shared memory and registers: a buffer that fits the cache, read by all multiprocessors again and again.
#include "measures/measures.h"
#include "measures/timing.h"
#include "ptx/tma.h"
#include "sm90/forward/instantiate.h"

namespace facts {

namespace {

constexpr int kRepeats = 5;
constexpr int kMiB = 1 << 20;
constexpr int kSizes[] = {8, 16, 32};  // MiB
constexpr int kBytesEach = 48 * kMiB;  // that a block reads in a run, or a little less

struct alignas(16) Words {
  uint32_t word[4];
};

constexpr int kLoadThreads = 1024;

struct LoadParams {
  const Words* source;
  uint32_t* target;
  int count;   // of Words, a multiple of kLoadThreads * 8
  int passes;  // over the source
};

// Every block reads all of it, each from its own place on.
__global__ void __launch_bounds__(kLoadThreads, 1) load_kernel(const LoadParams p) {
  uint32_t sum = 0;
  int at =
      static_cast<int>(static_cast<int64_t>(p.count) * block_index() / grid_blocks()) / kLoadThreads * kLoadThreads;
  const int64_t rounds = static_cast<int64_t>(p.passes) * (p.count / kLoadThreads);
#pragma unroll 8
  for (int64_t round = 0; round < rounds; ++round) {
    const Words words = p.source[at + thread_index()];
    sum |= words.word[0] | words.word[1] | words.word[2] | words.word[3];
    at += kLoadThreads;
    at = at == p.count ? 0 : at;
  }
  if (sum == 0xFFFFFFFFu) *p.target = sum;
}

constexpr int kMostInFlight = 16;
constexpr int kHeadDim = 128;
constexpr int kPanels = kHeadDim / sm90::kPanelElements;
constexpr int kBoxSpace = 192 * 1024;

struct BoxParams {
  TensorMap map;
  int box_rows;
  int in_flight;
  int boxes;     // of the tensor, panel by panel of each 64 or 128 rows
  int count;     // boxes that a block loads
  int together;  // 1: all blocks read the same boxes at the same time
};

struct BoxShared {
  alignas(1024) unsigned char space[kBoxSpace];
  Mbarrier full[kMostInFlight];
};

// One thread loads boxes as the forward kernel's producer does, and reuses their room at once.
__global__ void __launch_bounds__(128, 1) box_kernel(const __grid_constant__ BoxParams p) {
  auto& smem = shared<BoxShared>();
  if (thread_index() != 0) return;
  for (int i = 0; i < p.in_flight; ++i) mbarrier_init(smem.full[i], 1);
  fence_mbarrier_init();
  const int bytes = p.box_rows * sm90::kPanelElements * 2;
  int next = p.together != 0 ? 0 : static_cast<int>(static_cast<int64_t>(p.boxes) * block_index() / grid_blocks());
  const auto load = [&](int slot) {
    mbarrier_arrive_expect(smem.full[slot], bytes);
    tma_load_4d(shared_address(smem.space + slot * bytes), p.map, smem.full[slot],
                next % kPanels * sm90::kPanelElements, next / kPanels * p.box_rows, 0, 0, kEvictLast);
    next = next + 1 == p.boxes ? 0 : next + 1;
  };
  for (int i = 0; i < p.in_flight; ++i) load(i);
  int slot = 0;
  uint32_t parity = 0;
  for (int done = 0; done < p.count; ++done) {
    mbarrier_wait(smem.full[slot], parity);
    if (done + p.in_flight < p.count) load(slot);
    if (++slot == p.in_flight) {
      slot = 0;
      parity ^= 1;
    }
  }
}

void measure_loads() {
  Stopwatch watch;
  const Buffer<uint32_t> target(4);
  for (const int mib : kSizes) {
    const Buffer<Words> source(static_cast<size_t>(mib) * kMiB / sizeof(Words), 0);
    const LoadParams params = {source.data(), target.data(), static_cast<int>(mib * (kMiB / sizeof(Words))),
                               kBytesEach / (mib * kMiB)};
    const int blocks = multiprocessor_count();
    const double taken =
        watch.median_seconds(kRepeats, [&] { start<load_kernel>(watch, "loads", blocks, kLoadThreads, 0, params); });
    char name[64];
    snprintf(name, sizeof name, "l2_read_loads_%dmb", mib);
    report_measure(name, static_cast<double>(blocks) * params.passes * mib * kMiB / taken * 1e-12, "TB/s",
                   "%d blocks of %d threads, 16-byte loads, each block reads all of %d MiB %d times, median of %d",
                   blocks, kLoadThreads, mib, params.passes, kRepeats);
  }
}

void measure_boxes_of(Stopwatch& watch, const Buffer<uint16_t>& source, int mib, int box_rows, int in_flight,
                      bool together) {
  const int rows = mib * kMiB / (kHeadDim * 2);
  const int bytes = box_rows * sm90::kPanelElements * 2;
  BoxParams params = {};
  lacuna_shape shape = {};
  shape.head_dim = kHeadDim;
  shape.dtype = LACUNA_BF16;
  const sm90::Heads from{source.data(), {int64_t{rows} * kHeadDim, int64_t{rows} * kHeadDim, kHeadDim}, 1, 1, rows};
  if (sm90::encode_heads(&params.map, shape, from, box_rows) != LACUNA_OK) give_up("%s", last_error());
  params.box_rows = box_rows;
  params.in_flight = in_flight;
  params.boxes = rows / box_rows * kPanels;
  params.count = kBytesEach / bytes;
  params.together = together;
  const int blocks = multiprocessor_count();
  const double taken = watch.median_seconds(
      kRepeats, [&] { start<box_kernel>(watch, "boxes", blocks, 128, sizeof(BoxShared), params); });
  char name[64];
  snprintf(name, sizeof name, "l2_read_tma_%dmb_rows%d_flight%d%s", mib, box_rows, in_flight,
           together ? "_together" : "");
  report_measure(
      name, static_cast<double>(blocks) * params.count * bytes / taken * 1e-12, "TB/s",
      "%d blocks, boxes of 64 columns and %d rows, %d in flight, %s, median of %d", blocks, box_rows, in_flight,
      together ? "all blocks the same boxes in the same order" : "blocks start at different places", kRepeats);
}

void measure_boxes() {
  Stopwatch watch;
  for (const int mib : kSizes) {
    const Buffer<uint16_t> source(static_cast<size_t>(mib) * kMiB / 2, 0);
    for (const int box_rows : {64, 128}) {
      for (const int in_flight : {1, 2, 3, 4, 8, 16}) {
        if (in_flight * box_rows * sm90::kPanelElements * 2 > kBoxSpace) continue;
        measure_boxes_of(watch, source, mib, box_rows, in_flight, false);
      }
      measure_boxes_of(watch, source, mib, box_rows, 8, true);
    }
  }
}

constexpr Measure kMeasures[] = {
    {"l2_loads", "L2 read bandwidth of 16-byte loads", measure_loads},
    {"l2_boxes", "L2 read bandwidth of TMA boxes", measure_boxes},
};

}  // namespace

List<Measure> cache_measures() { return list_of(kMeasures); }

}  // namespace facts
