// cp.async on the SIMT host.
#pragma once

#include <stdint.h>

#include "simt/fiber.h"

namespace lacuna_simt {

void copy_issue(uint32_t destination, const void* source, int source_bytes, int line);
void copy_commit();
void copy_wait(int pending, int line);

// Scheduler's side: finish what the waiting fiber waits for, and make it ready.
void finish_copies_of(Fiber& waiter);
// Finish one pending copy of a fiber, if it has any.
void finish_one_copy(Fiber& fiber);
bool has_pending_copies(const Fiber& fiber);

}  // namespace lacuna_simt
