// What a persistent launch adds: the round trip to its counter, the launch, the memset before it.
#include "measures/clock.h"
#include "measures/measures.h"
#include "measures/timing.h"
#include "ptx/atomic.h"
#include "ptx/shared.h"
#include "sm90/forward/work.h"

namespace facts {

namespace {

constexpr int kRounds = 2000;
constexpr int kNodes = 500;  // of a graph, or launches in a row
constexpr int kRepeats = 9;

struct AtomicParams {
  int32_t* counter;
  int64_t* cycles;
};

// Each addition waits for the one before.
__global__ void __launch_bounds__(32) atomic_kernel(const AtomicParams p) {
  if (thread_index() != 0) return;
  int32_t value = 1;
  const int64_t begin = cycles();
  for (int round = 0; round < kRounds; ++round) value = atomic_add(p.counter, value < 0 ? 0 : 1);
  if (value >= 0) report_cycles(p.cycles, begin);
}

void measure_atomics() {
  Stopwatch watch;
  const Buffer<int64_t> cycle_count(1);
  for (const int blocks : {1, multiprocessor_count()}) {
    const Buffer<int32_t> counter(1, 0);
    const AtomicParams params = {counter.data(), cycle_count.data()};
    const double taken =
        watch.median_seconds(kRepeats, [&] { start<atomic_kernel>(watch, "atomics", blocks, 32, 0, params); });
    const char* const name = blocks == 1 ? "atomic_round_trip" : "atomic_round_trip_all";
    report_measure(name, taken / kRounds * 1e9, "ns", "one counter, %d thread%s, %d additions one after the other",
                   blocks, blocks == 1 ? "" : "s on as many multiprocessors", kRounds);
    report_measure(blocks == 1 ? "atomic_round_trip_clocks" : "atomic_round_trip_all_clocks",
                   static_cast<double>(cycle_count.values()[0]) / kRounds, "clocks", "the same by the cycle counter");
  }
}

struct EmptyParams {
  int32_t* counter;
};

__global__ void __launch_bounds__(sm90::kThreads, 1) empty_kernel(const EmptyParams p) {
  if (*p.counter == 1) *p.counter = 2;  // never
}

struct Launch {
  const char* name;
  int threads;
  size_t smem_bytes;
  bool cleared;  // a memset of 4 bytes before each
};

constexpr Launch kLaunches[] = {
    {"small", 128, 0, false},
    {"small_memset", 128, 0, true},
    {"forward", sm90::kThreads, 193 * 1024, false},
    {"forward_memset", sm90::kThreads, 193 * 1024, true},
};

void put_launches(const Stopwatch& watch, const Launch& kind, int blocks, const EmptyParams& params) {
  for (int i = 0; i < kNodes; ++i) {
    if (kind.cleared && fill_zero(params.counter, 1, watch.stream()) != LACUNA_OK) give_up("%s", last_error());
    start<empty_kernel>(watch, "empty", blocks, kind.threads, kind.smem_bytes, params);
  }
}

void measure_launches() {
  Stopwatch watch;
  const Buffer<int32_t> counter(1, 0);
  const EmptyParams params = {counter.data()};
  const int blocks = multiprocessor_count();
  // The limit of dynamic shared memory is the largest that was asked for first.
  require(allow_shared_memory<empty_kernel>(193 * 1024), "cudaFuncSetAttribute");
  for (const Launch& kind : kLaunches) {
    char name[64];
    const double streamed = watch.median_seconds(kRepeats, [&] { put_launches(watch, kind, blocks, params); });
    snprintf(name, sizeof name, "launch_%s", kind.name);
    report_measure(name, streamed / kNodes * 1e6, "us",
                   "empty kernel of %d blocks of %d threads, %zu bytes of shared memory%s, %d in a row on a stream",
                   blocks, kind.threads, kind.smem_bytes, kind.cleared ? ", after a memset of 4 bytes" : "", kNodes);
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    require(cudaStreamBeginCapture(watch.stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    put_launches(watch, kind, blocks, params);
    require(cudaStreamEndCapture(watch.stream(), &graph), "cudaStreamEndCapture");
    require(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    const double replayed = watch.median_seconds(
        kRepeats, [&] { require(cudaGraphLaunch(executable, watch.stream()), "cudaGraphLaunch"); });
    snprintf(name, sizeof name, "graph_%s", kind.name);
    report_measure(name, replayed / kNodes * 1e6, "us", "the same as nodes of a graph");
    require(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
    require(cudaGraphDestroy(graph), "cudaGraphDestroy");
  }
}

constexpr Measure kMeasures[] = {
    {"atomics", "round trip of an atomic counter in L2", measure_atomics},
    {"launches", "launches and memsets, on a stream and in a graph", measure_launches},
};

}  // namespace

List<Measure> latency_measures() { return list_of(kMeasures); }

}  // namespace facts
