// A CUDA thread is a fiber: an own stack and a hand-written switch. This header holds the state of a running block;
// who runs next is decided in schedule.cpp.
//
// A fiber never moves to another CPU thread, since compilers cache the address of thread-local variables over calls.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "lacuna_kernels.h"
#include "simt/random.h"

namespace lacuna_simt {

struct Block;
struct Warp;
struct Worker;
// States of the modules (simt/module.h), defined by them.
struct MbarrierState;
struct NamedBarrierState;
struct BulkState;
struct WarpgroupState;
struct ProxyState;
struct RegisterState;

// One cp.async in flight.
struct AsyncCopy {
  unsigned char* destination;
  const void* source;
  uint32_t source_bytes;
  uint32_t group;  // number of commits its thread had made before
  int line;
};

struct Fiber {
  void* stack_pointer;
  void* stack_top;  // highest usable address, coloured
  void* stack_low;  // lowest usable address; a guard page lies below
  Block* block;
  Warp* warp;
  int thread;  // index in the block
  int lane;
  uint32_t priority;
  const char* waits_for;  // what blocks it, for the deadlock report; null when ready
  int wait_line;
  int wait_allowed;  // copy_wait: groups that may stay unfinished
  uint32_t committed;
  size_t copies_done;  // copies[0 .. copies_done) are finished
  std::vector<AsyncCopy> copies;
};

// A collective in progress: lanes of one mask leaving their arguments.
struct CollectiveSlot {
  uint32_t mask;
  uint32_t arrived;
  const char* name;
  int line;
};

constexpr int kCollectiveSlots = 4;
// Bytes before a block's shared memory that are watched for stray writes.
constexpr size_t kArenaMargin = 1024;

struct Warp {
  Block* block;
  int index;
  uint32_t ready;     // lanes that can run
  uint32_t exited;    // lanes that have returned from the kernel
  uint32_t lanes;     // lanes that exist
  uint64_t meetings;  // times that all its lanes have come to one place: collectives and barriers
  void* arguments[32];
  CollectiveSlot slots[kCollectiveSlots];
};

struct Block {
  Worker* worker;
  int64_t index;
  int64_t grid;
  int threads;
  int warps;
  int live;              // threads that have not exited
  uint32_t ready_warps;  // warps with ready lanes
  int barrier_arrived;
  int barrier_line;
  std::vector<Fiber*> copy_waiting;  // fibers blocked in copy_wait
  size_t copies_pending;             // cp.async of all its threads
  MbarrierState* mbarriers;
  NamedBarrierState* named_barriers;
  BulkState* bulk;
  WarpgroupState* warpgroups;
  ProxyState* proxy;
  RegisterState* registers;
  unsigned char* arena;  // shared memory, 1024-byte aligned
  unsigned char* arena_end;
  uint32_t arena_bytes;
  Warp warp[32];
  std::vector<Fiber*> fibers;
};

// One CPU thread's share of a launch.
struct Launch;
struct Worker {
  void* main_stack_pointer;
  Fiber* current;
  Launch* launch;
  lacuna_simt_config config;
  Random random;
  lacuna_simt_counters counters;
  std::vector<Block*> blocks;  // resident
  int next_block;              // round robin among residents
  int64_t steps_to_redraw;     // LACUNA_SIMT_PRIORITY: switches until priorities are drawn anew
  int64_t polls;               // polling points since a thread last blocked or exited
  bool failed;
};

extern thread_local Worker* current_worker __attribute__((tls_model("initial-exec")));

inline Fiber& current_fiber() { return *current_worker->current; }

// Gives up the CPU until another fiber or a completion makes this one ready again.
void block_fiber(const char* waits_for, int line);
// A moment at which the scheduler may prefer another fiber.
void scheduling_point();
// The same after an operation with which a thread may poll for what any other thread does: all get their turn.
void polling_point();
void make_ready(Fiber& fiber);
void make_lanes_ready(Warp& warp, uint32_t lanes);

void block_barrier(int line);
void warp_sync(uint32_t mask, int line);

// Allocation of blocks with their fibers and arenas, pooled per worker.
Block* make_block(Worker& worker);
void prepare_block(Block& block, int64_t index, int64_t grid, int threads, uint32_t arena_bytes);
// Runs one worker until its launch has no blocks left or has failed.
void run_worker(Worker& worker);

}  // namespace lacuna_simt

// Saves the callee-saved registers and the stack pointer to *save, continues at `load`.
extern "C" void lacuna_simt_switch(void** save, void* load);
// First code of a fiber; never returns.
extern "C" void lacuna_simt_fiber_main(void);
