// Operations of the bulk engine: loads (global to shared, reported to an mbarrier) and stores (shared to global, in the
// bulk groups of the thread that issues them). Each completes in no order with respect to the others.
#pragma once

#include <stdint.h>

#include "simt/fiber.h"
#include "simt/tensor_box.h"

namespace lacuna_simt {

enum class BulkKind : int { kLoad, kTensorLoad, kStore, kTensorStore, kAddF32 };

struct BulkOperation {
  BulkKind kind;
  TensorBox box;     // tensor copies
  void* global;      // the others
  uint32_t shared;   // address
  uint32_t bytes;    // of shared memory, zero fill included
  uint32_t barrier;  // loads
  // Set at issue:
  int line;
  Fiber* issuer;
  uint32_t group;  // stores: of its thread
  int32_t staged;  // stores: the buffer that holds what was read, -1 before
};

// Of the current thread's launch.
bool checking();
// Both check what loads and stores have in common, and hand the operation over.
void issue_bulk_load(BulkOperation& operation, const char* what);
void issue_bulk_store(BulkOperation& operation, const char* what);

}  // namespace lacuna_simt
