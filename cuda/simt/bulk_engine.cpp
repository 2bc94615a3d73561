// When bulk operations take effect. Loads poison their destination at issue and complete when a blocked thread waits
// for their mbarrier. A store reads its source when its thread waits for that, and writes its destination when the
// thread waits for all of it, at the latest when the thread exits. "Early": all at issue; "mixed": at seeded moments.
#include <utility>

#include "simt/bulk.h"
#include "simt/bulk_operation.h"
#include "simt/bulk_transfer.h"
#include "simt/error.h"
#include "simt/mbarrier.h"
#include "simt/memory.h"
#include "simt/module.h"
#include "simt/proxy.h"

namespace lacuna_simt {

namespace {

// Bulk groups of a thread, numbered from 0.
struct BulkThread {
  uint32_t committed;   // groups closed
  uint32_t read_until;  // groups below were waited for: their sources are read
  uint32_t last_store;  // 1 + the group of its last store; 0: none
  int last_line;        // of that store
};

struct BulkWaiter {
  Fiber* fiber;
  uint32_t until;  // groups below are awaited
  bool read;       // their sources only
};

}  // namespace

struct BulkState {
  std::vector<BulkOperation> operations;  // in flight, in no order
  std::vector<BulkThread> threads;
  std::vector<BulkWaiter> waiters;  // blocked threads
  std::vector<std::vector<unsigned char>> staged;
  std::vector<int32_t> free_staged;
};

namespace {

bool is_load(const BulkOperation& operation) {
  return operation.kind == BulkKind::kLoad || operation.kind == BulkKind::kTensorLoad;
}

bool awaits(const BulkWaiter& waiter, const BulkOperation& operation) {
  return !is_load(operation) && operation.issuer == waiter.fiber && operation.group < waiter.until &&
         !(waiter.read && operation.staged >= 0);
}

bool is_wanted(const Block& block, const BulkOperation& operation) {
  if (is_load(operation)) return mbarrier_is_awaited(block, operation.barrier);
  for (const BulkWaiter& waiter : block.bulk->waiters) {
    if (awaits(waiter, operation)) return true;
  }
  return false;
}

bool is_done(const BulkState& state, const BulkWaiter& waiter) {
  for (const BulkOperation& operation : state.operations) {
    if (awaits(waiter, operation)) return false;
  }
  return true;
}

void stage(Block& block, BulkOperation& operation) {
  BulkState& state = *block.bulk;
  if (state.free_staged.empty()) {
    state.free_staged.push_back(static_cast<int32_t>(state.staged.size()));
    state.staged.emplace_back();
  }
  operation.staged = state.free_staged.back();
  state.free_staged.pop_back();
  std::vector<unsigned char>& buffer = state.staged[static_cast<size_t>(operation.staged)];
  if (buffer.size() < operation.bytes) buffer.resize(operation.bytes);
  read_source(block, operation, buffer.data());
}

// Does what is left of it, with its source read before.
void perform(Block& block, BulkOperation& operation) {
  if (is_load(operation)) {
    perform_load(block, operation);
    return;
  }
  if (operation.staged < 0) stage(block, operation);
  write_destination(block, operation, block.bulk->staged[static_cast<size_t>(operation.staged)].data());
  block.bulk->free_staged.push_back(operation.staged);
}

void wake_waiters(BulkState& state) {
  for (size_t i = 0; i < state.waiters.size();) {
    if (!is_done(state, state.waiters[i])) {
      ++i;
      continue;
    }
    make_ready(*state.waiters[i].fiber);
    state.waiters[i] = state.waiters.back();
    state.waiters.pop_back();
  }
}

// read_only: the source of a store is read, and no more.
void finish(Block& block, size_t index, bool read_only) {
  BulkState& state = *block.bulk;
  if (read_only) {
    stage(block, state.operations[index]);
  } else {
    BulkOperation operation = state.operations[index];
    state.operations[index] = state.operations.back();
    state.operations.pop_back();
    perform(block, operation);
  }
  wake_waiters(state);
}

// What the waiter waits for.
void finish_groups(Block& block, const BulkWaiter& waiter) {
  std::vector<BulkOperation>& operations = block.bulk->operations;
  for (size_t i = 0; i < operations.size();) {
    if (!awaits(waiter, operations[i])) {
      ++i;
      continue;
    }
    finish(block, i, waiter.read);
    if (waiter.read) ++i;
  }
}

bool read_is_enough(const BulkState& state, const BulkOperation& operation) {
  for (const BulkWaiter& waiter : state.waiters) {
    if (awaits(waiter, operation)) return waiter.read;
  }
  return false;
}

void enqueue(Block& block, BulkOperation& operation) {
  if (block.worker->config.async_mode == LACUNA_SIMT_EARLY) {
    perform(block, operation);
  } else {
    block.bulk->operations.push_back(operation);
  }
}

BulkThread& thread_of(const Fiber& fiber) { return fiber.block->bulk->threads[static_cast<size_t>(fiber.thread)]; }

}  // namespace

bool checking() { return current_worker->config.checks != 0; }

void issue_bulk_load(BulkOperation& operation, const char* what) {
  Fiber& self = current_fiber();
  Block& block = *self.block;
  mbarrier_check(operation.barrier, what, operation.line);
  operation.issuer = &self;
  if (checking()) {
    proxy_check_overwrite(operation.shared, operation.bytes, what, operation.line);
    if (block.worker->config.async_mode != LACUNA_SIMT_EARLY) poison_destination(block, operation);
  }
  enqueue(block, operation);
  scheduling_point();
}

void issue_bulk_store(BulkOperation& operation, const char* what) {
  Fiber& self = current_fiber();
  BulkThread& thread = thread_of(self);
  operation.issuer = &self;
  operation.group = thread.committed;
  operation.staged = -1;
  thread.last_store = thread.committed + 1;
  thread.last_line = operation.line;
  if (checking()) proxy_check_read(operation.shared, operation.bytes, what, operation.line);
  enqueue(*self.block, operation);
}

void bulk_close_group() {
  ++thread_of(current_fiber()).committed;
  scheduling_point();
}

void bulk_await(int pending, bool read, int line) {
  Fiber& self = current_fiber();
  Block& block = *self.block;
  BulkState& state = *block.bulk;
  BulkThread& thread = thread_of(self);
  const uint32_t allowed = static_cast<uint32_t>(pending);
  const uint32_t until = thread.committed > allowed ? thread.committed - allowed : 0;
  if (until > thread.read_until) thread.read_until = until;
  const BulkWaiter waiter{&self, until, read};
  if (is_done(state, waiter)) return;
  if (block.worker->config.async_mode == LACUNA_SIMT_MIXED && block.worker->random.below(2) == 0) {
    finish_groups(block, waiter);
    return;
  }
  state.waiters.push_back(waiter);
  block_fiber(read ? "cp.async.bulk.wait_group.read" : "cp.async.bulk.wait_group", line);
}

namespace {

void start(Block& block) {
  BulkState& state = *block.bulk;
  state.operations.clear();
  state.waiters.clear();
  state.free_staged.clear();
  for (size_t i = 0; i < state.staged.size(); ++i) state.free_staged.push_back(static_cast<int32_t>(i));
  state.threads.assign(static_cast<size_t>(block.threads), BulkThread{});
}

void exit(Fiber& fiber) {
  const Block& block = *fiber.block;
  const BulkThread& thread = thread_of(fiber);
  if (thread.last_store > thread.committed) {
    fail(thread.last_line, "the thread exits with a bulk store that it never committed");
  }
  if (thread.last_store > thread.read_until) {
    fail(thread.last_line,
         "the thread exits with a bulk store whose source it never waited for (wait_group.read): shared memory may go "
         "before it is read");
  }
  if (block.live > 1) return;
  for (const BulkOperation& operation : block.bulk->operations) {
    if (!is_load(operation)) continue;
    fail(operation.line, "the block ends with a load in flight (issued by thread %d) that nobody waited for",
         operation.issuer->thread);
  }
}

// The end of a kernel makes its stores visible.
void exited(Fiber& fiber) {
  Block& block = *fiber.block;
  if (!block.bulk->operations.empty()) finish_groups(block, {&fiber, UINT32_MAX, false});
}

size_t wanted(const Block& block) {
  size_t count = 0;
  for (const BulkOperation& operation : block.bulk->operations) count += is_wanted(block, operation);
  return count;
}

void finish_wanted(Block& block, uint32_t index) {
  const BulkState& state = *block.bulk;
  for (size_t i = 0; i < state.operations.size(); ++i) {
    if (!is_wanted(block, state.operations[i]) || index-- > 0) continue;
    finish(block, i, read_is_enough(state, state.operations[i]));
    return;
  }
}

void finish_pending(Block& block, Random& random) {
  const BulkState& state = *block.bulk;
  const size_t index = random.below(static_cast<uint32_t>(state.operations.size()));
  const BulkOperation& operation = state.operations[index];
  finish(block, index, !is_load(operation) && operation.staged < 0 && random.below(2) == 0);
}

}  // namespace

const Module bulk_module = {
    [](Block& block) { block.bulk = new BulkState; },
    start,
    exit,
    exited,
    wanted,
    finish_wanted,
    [](const Block& block) { return block.bulk->operations.size(); },
    finish_pending,
    nullptr,
};

}  // namespace lacuna_simt
