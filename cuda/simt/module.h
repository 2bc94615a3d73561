// The parts of the SIMT host that keep state of a running block beside its fibers: asynchronous engines and barriers.
// The scheduler knows them through this table only.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "simt/fiber.h"

namespace lacuna_simt {

// Null: nothing to do. Called with current_worker set; `exit` on the stack of the fiber, so that it may fail().
struct Module {
  void (*make)(Block& block);    // once a block object: allocates its state
  void (*start)(Block& block);   // a block begins: forgets everything
  void (*exit)(Fiber& fiber);    // a thread is about to exit: reports what it left undone (checking launches only)
  void (*exited)(Fiber& fiber);  // a thread has left the ready set for good: may make others ready
  // Operations in flight that a blocked thread waits for, and the completion of one of them.
  size_t (*wanted)(const Block& block);
  void (*finish_wanted)(Block& block, uint32_t index);
  // All operations in flight, and the completion of a seeded one (only called if there is one).
  size_t (*pending)(const Block& block);
  void (*finish_pending)(Block& block, Random& random);
  // For the report of a deadlock: the state of the objects that blocked threads wait for, "" if there are none.
  void (*describe)(const Block& block, char* text, size_t bytes);
};

extern const Module copy_module;           // cp.async
extern const Module mbarrier_module;       // mbarrier objects
extern const Module named_barrier_module;  // bar.sync, bar.arrive
extern const Module bulk_module;           // bulk copies and TMA
extern const Module warpgroup_module;      // wgmma
extern const Module proxy_module;          // who wrote what through which proxy
extern const Module register_module;       // setmaxnreg

inline const Module* const kModules[] = {&copy_module,      &mbarrier_module, &named_barrier_module, &bulk_module,
                                         &warpgroup_module, &proxy_module,    &register_module};

}  // namespace lacuna_simt
