// The SIMT host: a machine made of fibers. All functions are thread-safe; a stream is used by one thread at a time.
#ifndef LACUNA_ABI_SIMT_H
#define LACUNA_ABI_SIMT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lacuna_simt_policy {
  LACUNA_SIMT_ROUND_ROBIN = 0,  // fast
  LACUNA_SIMT_RANDOM_LANE = 1,
  LACUNA_SIMT_WARP_FIRST = 2,  // one warp runs as far as it can
  LACUNA_SIMT_PRIORITY = 3     // random priorities, redrawn at seeded intervals
} lacuna_simt_policy;

typedef enum lacuna_simt_async {
  LACUNA_SIMT_LATE = 0,   // asynchronous work completes only when nothing else can run
  LACUNA_SIMT_EARLY = 1,  // at issue
  LACUNA_SIMT_MIXED = 2   // at seeded moments between
} lacuna_simt_async;

typedef struct lacuna_simt_config {
  uint64_t seed;
  int32_t policy;            // lacuna_simt_policy
  int32_t async_mode;        // lacuna_simt_async
  int32_t threads;           // CPU threads; 0: all
  int32_t resident;          // blocks interleaved on one CPU thread, >= 1
  int32_t checks;            // 1: poison shared memory and async destinations, guard stacks, catch faults (test mode)
  int32_t random_blocks;     // 1: blocks start in a seeded order
  int32_t sm_count;          // multiprocessors reported to persistent kernels
  int32_t smem_limit_bytes;  // shared memory a block may have
} lacuna_simt_config;

// Work done since the stream was made or its counters were reset. Independent of schedule and seed.
typedef struct lacuna_simt_counters {
  uint64_t launches;
  uint64_t mma_macs;        // multiply-adds of matrix instructions
  uint64_t copy_bytes;      // bytes moved by cp.async and bulk copies, zero-fill excluded
  uint64_t bank_conflicts;  // extra shared-memory cycles of ldmatrix and stmatrix
  uint64_t barriers;        // block barriers passed
  uint64_t collectives;     // warp collectives
} lacuna_simt_counters;

typedef struct lacuna_simt_stream lacuna_simt_stream;

void lacuna_simt_default_config(lacuna_simt_config* config);
lacuna_simt_stream* lacuna_simt_stream_create(const lacuna_simt_config* config);  // null: invalid config
void lacuna_simt_stream_destroy(lacuna_simt_stream* stream);
void lacuna_simt_stream_counters(const lacuna_simt_stream* stream, lacuna_simt_counters* counters);
void lacuna_simt_stream_reset_counters(lacuna_simt_stream* stream);

// Memory of `bytes` bytes, 16-byte aligned. guard 0: plain; 1: its end touches a guard page (rounded down to 16 bytes,
// the slack is filled with NaN); 2: its start touches one. Contents start as 0xFF bytes. Null: out of memory.
void* lacuna_simt_alloc(uint64_t bytes, int32_t guard);
void lacuna_simt_free(void* pointer);

#ifdef __cplusplus
}
#endif

#endif  // LACUNA_ABI_SIMT_H
