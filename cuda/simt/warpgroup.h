// What a warpgroup's wgmma instructions leave behind. Its 128 threads must execute the same fences, products, commits
// and waits in the same order, but each comes in its own time: the first thread to reach a step writes it to the log,
// the others are compared with it. Operations are numbered in order of issue.
#pragma once

#include <stdint.h>

#include <vector>

#include "simt/fiber.h"
#include "simt/numbered_queue.h"
#include "simt/wgmma_product.h"

namespace lacuna_simt {

constexpr int kWarpgroupThreads = 128;

// Registers that belong to operations in flight from issue to the wait of their thread. Arithmetic on the poison, a
// signalling NaN, gives a quiet one: even multiplying it leaves a trace.
struct Accumulators {
  alignas(64) float c[kMaxWgmmaColumns * kWgmmaRows];  // [column][row]
  float* d[kWarpgroupThreads];
  int count;      // registers of a thread
  uint32_t last;  // number of the last operation that adds to them
  int line;       // of that operation
  int left;       // threads that have not got them back
};

// Operands that must be equal in all threads.
struct WgmmaOperands {
  int columns;
  uint64_t a;  // 0 when A is in registers
  uint64_t b;
  bool a_in_registers;
  bool b_mn_major;
  bool accumulate;
  bool bfloat16;
};

struct WgmmaOperation {
  WgmmaOperands operands;
  int line;
  bool chained;  // adds to accumulators that were in flight already
  Accumulators* accumulators;
  int issued;  // threads that have issued it
  int left;    // threads that have not waited for it
  const uint32_t* a_registers[kWarpgroupThreads];
  uint32_t a_values[kWarpgroupThreads][4];  // as they were at issue
  Chunk a_chunks[kWgmmaRows * kWgmmaDepth / 8];
  Chunk b_chunks[kMaxWgmmaChunks];
};

enum class WgmmaStep : uint8_t { kFence, kProduct, kCommit, kWait };

struct WgmmaEvent {
  WgmmaStep step;
  int line;
  int left;                   // threads that have not come to it
  WgmmaOperation* operation;  // kProduct
  int pending;                // kWait: groups that may stay unfinished
  uint32_t from;              // kWait: it covers the operations from .. to - 1 that no earlier wait did
  uint32_t to;
};

// A thread's place in the log: the number of its next event, and of the operations it has issued and waited for.
struct WarpgroupMember {
  uint32_t event;
  uint32_t issued;
  uint32_t waited;
};

struct Warpgroup {
  Block* block;
  int index;
  WarpgroupMember members[kWarpgroupThreads];
  // The log, and what follows from all of it.
  NumberedQueue<WgmmaEvent> events;
  bool fenced;  // since the last wait
  int last_wait_line;
  uint32_t waited;                  // operations before this number are covered by waits
  NumberedQueue<uint32_t> commits;  // of groups not yet waited for: the number after their last operation
  // Not yet given back to all threads, oldest first.
  NumberedQueue<WgmmaOperation*> operations;
  uint32_t issued;     // operations before this number are issued by all threads,
  uint32_t completed;  // and before this one complete
  std::vector<Accumulators*> accumulators;
  // Warps meet at waits.
  uint32_t arrived[4];
  bool waiting[4];  // all lanes are there, the operations are not complete
  uint32_t wait_to[4];
  std::vector<WgmmaOperation*> free_operations;
  std::vector<Accumulators*> free_accumulators;
};

struct WarpgroupState {
  Warpgroup* groups[1024 / kWarpgroupThreads];  // made at first use
  uint32_t used;                                // groups that have events in this block
  WgmmaScratch scratch;
};

// Completes the operations before number `to`, which all threads have issued, and wakes the warps that wait for them.
void complete_operations(Warpgroup& group, uint32_t to);
void wake_warp(Warpgroup& group, int warp);
// The current thread's warpgroup, from its first use in a block on.
Warpgroup& current_warpgroup(int line);

}  // namespace lacuna_simt
