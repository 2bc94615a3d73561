#include "simt/bulk_transfer.h"

#include <math.h>
#include <string.h>

#include "simt/mbarrier.h"
#include "simt/memory.h"
#include "simt/proxy.h"

namespace lacuna_simt {

namespace {

// While it lives, faults are those of the thread that issued the operation.
class Blame {
 public:
  Blame(Block& block, const BulkOperation& operation) : worker_(*block.worker), running_(worker_.current) {
    worker_.current = operation.issuer;
  }
  ~Blame() { worker_.current = running_; }
  Blame(const Blame&) = delete;
  Blame& operator=(const Blame&) = delete;

 private:
  Worker& worker_;
  Fiber* const running_;
};

unsigned char* shared_bytes(const Block& block, const BulkOperation& operation) {
  return block.arena + (operation.shared - kSharedBase);
}

// red.global.add.f32 takes subnormal numbers for zeros, and gives zeros for them.
float flushed(float value) { return fpclassify(value) == FP_SUBNORMAL ? copysignf(0.0f, value) : value; }

void add_atomically(void* global, const unsigned char* source) {
  float addend;
  memcpy(&addend, source, sizeof addend);
  uint32_t* const word = static_cast<uint32_t*>(global);
  uint32_t before = __atomic_load_n(word, __ATOMIC_RELAXED);
  uint32_t after;
  do {
    float value;
    memcpy(&value, &before, sizeof value);
    value = flushed(flushed(value) + flushed(addend));
    memcpy(&after, &value, sizeof after);
  } while (!__atomic_compare_exchange_n(word, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

}  // namespace

void perform_load(Block& block, const BulkOperation& operation) {
  Worker& worker = *block.worker;
  {
    const Blame blame(block, operation);
    unsigned char* const to = shared_bytes(block, operation);
    if (operation.kind == BulkKind::kTensorLoad) {
      worker.counters.copy_bytes += load_box(operation.box, to, operation.shared);
    } else {
      memcpy(to, operation.global, operation.bytes);
      worker.counters.copy_bytes += operation.bytes;
    }
    if (worker.config.checks != 0) proxy_async_write(operation.shared, operation.bytes);
  }
  mbarrier_complete(block, operation.barrier, operation.bytes, operation.line);
}

void read_source(Block& block, const BulkOperation& operation, unsigned char* staged) {
  memcpy(staged, shared_bytes(block, operation), operation.bytes);
}

void write_destination(Block& block, const BulkOperation& operation, const unsigned char* staged) {
  const Blame blame(block, operation);
  uint32_t moved = operation.bytes;
  if (operation.kind == BulkKind::kTensorStore) {
    moved = store_box(operation.box, staged, operation.shared);
  } else if (operation.kind == BulkKind::kStore) {
    memcpy(operation.global, staged, operation.bytes);
  } else {
    unsigned char* const to = static_cast<unsigned char*>(operation.global);
    for (uint32_t i = 0; i < operation.bytes; i += sizeof(float)) add_atomically(to + i, staged + i);
  }
  block.worker->counters.copy_bytes += moved;
}

void poison_destination(Block& block, const BulkOperation& operation) {
  unsigned char* const to = shared_bytes(block, operation);
  if (operation.kind == BulkKind::kTensorLoad) {
    poison_box(operation.box, to, operation.shared);
  } else {
    memset(to, 0xFF, operation.bytes);
  }
}

}  // namespace lacuna_simt
