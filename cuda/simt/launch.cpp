// A launch spreads blocks over CPU threads: each worker takes block positions from one counter.
#include "simt/launch.h"

#include <string.h>

#include <thread>

#include "simt/error.h"
#include "simt/memory.h"
#include "simt/stream.h"

namespace lacuna_simt {

namespace {

// Workers with their stacks and arenas, kept for the next launch.
struct WorkerPool {
  std::mutex lock;
  std::vector<Worker*> idle;

  Worker* take() {
    const std::lock_guard<std::mutex> guard(lock);
    if (idle.empty()) return new Worker{};
    Worker* worker = idle.back();
    idle.pop_back();
    return worker;
  }
  void give(Worker* worker) {
    const std::lock_guard<std::mutex> guard(lock);
    idle.push_back(worker);
  }
};

WorkerPool& pool() {
  static WorkerPool* const workers = new WorkerPool;
  return *workers;
}

void run_share(Launch& launch, Worker& worker) {
  worker.launch = &launch;
  worker.config = launch.config;
  worker.counters = {};
  const bool checks = launch.config.checks != 0;
  if (checks) use_signal_stack();
  current_worker = &worker;
  run_worker(worker);
  worker.current = nullptr;
  current_worker = nullptr;
  if (checks) drop_signal_stack();
}

int cpu_threads(const lacuna_simt_config& config) {
  if (config.threads > 0) return config.threads;
  const unsigned available = std::thread::hardware_concurrency();
  return available > 0 ? static_cast<int>(available) : 1;
}

const char* broken_limit(const Launch& launch) {
  if (launch.grid < 1 || launch.grid > 0x7fffffff) return "the grid must have 1 to 2^31 - 1 blocks";
  if (launch.threads < 1 || launch.threads > 1024) return "a block must have 1 to 1024 threads";
  if (launch.smem_bytes > static_cast<uint32_t>(launch.config.smem_limit_bytes)) {
    return "the block asks for more shared memory than the architecture gives";
  }
  return nullptr;
}

}  // namespace

int64_t block_at(const Launch& launch, int64_t position) {
  if (launch.config.random_blocks == 0 || launch.grid < 2) return position;
  // An affine permutation: step coprime to the grid.
  Random random = seeded(launch.config.seed, static_cast<uint64_t>(launch.grid));
  const uint32_t grid = static_cast<uint32_t>(launch.grid);
  const auto coprime = [&](uint64_t step) {
    uint64_t a = step, b = grid;
    while (b != 0) {
      const uint64_t rest = a % b;
      a = b;
      b = rest;
    }
    return a == 1;
  };
  uint64_t step = 1 + random.below(grid - 1);
  while (!coprime(step)) step = step % grid + 1;
  return static_cast<int64_t>((static_cast<uint64_t>(position) * step + random.below(grid)) % grid);
}

int32_t run_launch(Launch& launch, lacuna_simt_stream* stream) {
  if (current_worker != nullptr) return set_error(LACUNA_INVALID_ARGUMENT, "a kernel cannot launch a kernel");
  if (const char* limit = broken_limit(launch)) {
    return set_error(LACUNA_SIMT_ERROR, "kernel %s: %s (grid %lld, %d threads, %u bytes of shared memory, limit %d)",
                     launch.name, limit, static_cast<long long>(launch.grid), launch.threads, launch.smem_bytes,
                     launch.config.smem_limit_bytes);
  }
  const bool checks = launch.config.checks != 0;
  if (checks) install_fault_handler();
  int64_t count = cpu_threads(launch.config);
  if (count > launch.grid) count = launch.grid;
  std::vector<Worker*> workers;
  for (int64_t i = 0; i < count; ++i) workers.push_back(pool().take());
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < count; ++i) {
    threads.emplace_back(run_share, std::ref(launch), std::ref(*workers[static_cast<size_t>(i)]));
  }
  run_share(launch, *workers[0]);
  for (std::thread& thread : threads) thread.join();
  char slack[128];
  if (checks && !launch.failed.load() && !check_slack(slack, sizeof slack)) record_failure(*workers[0], slack);
  lacuna_simt_counters total = {};
  total.launches = 1;
  for (Worker* worker : workers) {
    add_counters(total, worker->counters);
    pool().give(worker);
  }
  if (checks) remove_fault_handler();
  count_work(stream, total);
  if (launch.failed.load()) return set_error(LACUNA_SIMT_ERROR, "%s", launch.failure);
  return LACUNA_OK;
}

}  // namespace lacuna_simt
