// mbarrier objects on the SIMT host. `barrier` is a shared address.
#pragma once

#include <stdint.h>

namespace lacuna_simt {

struct Block;

void mbarrier_start(uint32_t barrier, int arrivals, int line);
// Announces `bytes` (0: none), then arrives once.
void mbarrier_arrival(uint32_t barrier, int bytes, int line);
bool mbarrier_poll(uint32_t barrier, uint32_t parity, int line);
void mbarrier_await(uint32_t barrier, uint32_t parity, int line);

// For asynchronous copies. At issue, on the issuing thread: fails unless `barrier` is a live mbarrier.
void mbarrier_check(uint32_t barrier, const char* what, int line);
// At completion, from whatever stack: `bytes` of those announced have arrived; may make threads ready. What is wrong
// then is recorded, and the launch ends when the scheduler next runs.
void mbarrier_complete(Block& block, uint32_t barrier, uint32_t bytes, int line);
// Does a blocked thread wait for a phase of this barrier?
bool mbarrier_is_awaited(const Block& block, uint32_t barrier);

}  // namespace lacuna_simt
