// Starting kernels on the SIMT host.
#pragma once

#include <stdint.h>

#include <atomic>
#include <mutex>

#include "simt/error.h"
#include "simt/fiber.h"

namespace lacuna_simt {

struct Launch {
  const char* name;
  void (*entry)(const void* params);  // calls the kernel with its parameters
  const void* params;
  int64_t grid;
  int threads;
  uint32_t smem_bytes;
  lacuna_simt_config config;
  std::atomic<int64_t> next_block{0};
  std::atomic<bool> failed{false};
  std::mutex failure_lock;
  char failure[kFailureBytes] = {0};
};

// Runs the whole grid and returns a lacuna_status.
int32_t run_launch(Launch& launch, lacuna_simt_stream* stream);

// Maps a launch position to a block index: the identity, or a seeded permutation.
int64_t block_at(const Launch& launch, int64_t position);

}  // namespace lacuna_simt
