// Plain loads and stores outside tensors, shared memory and the stack.
#include "harness.h"
#include "ptx/shared.h"

namespace lacuna_simt {

namespace {

// `count` words, one a thread. Planted: thread `variant` reads one word before (negative) or behind the tensor.
template <bool kPlanted>
__global__ void load_outside(const TestParams p) {
  int64_t at = thread_index();
  if (kPlanted && at == p.count - 1) at = p.variant < 0 ? -1 : p.count;
  if (thread_index() < p.count) target_words(p)[thread_index()] = source_words(p)[at];
}

// The same for stores to the target.
template <bool kPlanted>
__global__ void store_outside(const TestParams p) {
  int64_t at = thread_index();
  if (thread_index() >= p.count) return;
  target_words(p)[at] = source_words(p)[at];
  if (kPlanted && at == p.count - 1) target_words(p)[p.variant < 0 ? -1 : p.count] = 1;
}

// Planted: a null pointer is read.
template <bool kPlanted>
__global__ void load_null(const TestParams p) {
  const volatile uint32_t* from = kPlanted && thread_index() == 3 ? nullptr : source_words(p);
  target_words(p)[thread_index()] = from[thread_index() % static_cast<int>(p.count)];
}

struct Rows {
  uint32_t word[1];  // smem_bytes / 4 of them
};

// Rows of 32 words. Planted: one row too many behind the end (variant 0), or one before the start (variant 1).
template <bool kPlanted>
__global__ void shared_rows(const TestParams p) {
  uint32_t* const words = shared<Rows>().word;
  const int64_t rows = p.smem_bytes / 128;
  for (int64_t row = 0; row < rows; ++row) words[32 * row + thread_index() % 32] = static_cast<uint32_t>(row);
  sync_threads();
  if (kPlanted) {
    const int64_t row = p.variant == 0 ? rows : -1;
    words[32 * row + thread_index() % 32] = 7;
  }
  sync_threads();
  target_words(p)[thread_index()] = words[32 * (rows - 1) + thread_index() % 32];
}

// Nothing has been written: shared memory starts as NaN.
__global__ void unwritten_shared(const TestParams p) {
  target_words(p)[thread_index()] = shared<Rows>().word[thread_index()];
}

__attribute__((noinline)) uint32_t deep(uint32_t depth) {
  volatile uint32_t frame[64];
  frame[depth % 64] = depth;
  return depth == 0 ? frame[0] : deep(depth - 1) + frame[depth % 64];
}

__attribute__((noinline)) uint32_t wide(uint32_t value) {
  volatile uint32_t frame[48 * 1024];  // 192 KB
  frame[0] = value;
  return frame[0];
}

// Planted: recursion without end (variant 0), one frame larger than the stack (variant 1).
template <bool kPlanted>
__global__ void stack_overflow(const TestParams p) {
  uint32_t result = deep(8);
  if (kPlanted && thread_index() == 5) result = p.variant == 0 ? deep(1000000) : wide(1);
  target_words(p)[thread_index()] = result;
}

const TestKernel kKernels[] = {
    {"load_outside", start<load_outside<true>>, start<load_outside<false>>},
    {"store_outside", start<store_outside<true>>, start<store_outside<false>>},
    {"load_null", start<load_null<true>>, start<load_null<false>>},
    {"shared_rows", start<shared_rows<true>>, start<shared_rows<false>>},
    {"unwritten_shared", nullptr, start<unwritten_shared>},
    {"stack_overflow", start<stack_overflow<true>>, start<stack_overflow<false>>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_memory, lacuna_simt::kKernels)
