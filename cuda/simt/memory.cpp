// Guarded mappings and the registry of buffers.
#include "simt/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <iterator>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "simt/error.h"

namespace lacuna_simt {

namespace {

// Above this size memory is reserved, not touched: it reads as zero and costs nothing until used.
constexpr uint64_t kLazyBytes = uint64_t{64} << 20;

struct Buffer {
  size_t bytes;
  unsigned char* mapping;  // null: from malloc
  size_t mapping_bytes;
  bool guarded;       // the rest of the mapping is slack: 0xFF bytes that nobody may write
  const void* owner;  // the thread that allocated it
};

// Its address names the thread.
thread_local char this_thread = 0;

std::map<uintptr_t, Buffer>& buffers() {
  static std::map<uintptr_t, Buffer>* const all = new std::map<uintptr_t, Buffer>;
  return *all;
}

std::shared_mutex& buffers_lock() {
  static std::shared_mutex* const lock = new std::shared_mutex;
  return *lock;
}

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

size_t guard_bytes() {
  // Compilers for aarch64 probe large frames at steps of 64 KB only.
  const size_t probe = size_t{64} << 10;
  return page_bytes() > probe ? page_bytes() : probe;
}

void* map_guarded(size_t bytes) {
  const size_t guard = guard_bytes();
  void* all = mmap(nullptr, bytes + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) return nullptr;
  unsigned char* usable = static_cast<unsigned char*>(all) + guard;
  if (bytes > 0 && mprotect(usable, bytes, PROT_READ | PROT_WRITE) != 0) {
    munmap(all, bytes + 2 * guard);
    return nullptr;
  }
  return usable;
}

void unmap_guarded(void* pointer, size_t bytes) {
  const size_t guard = guard_bytes();
  munmap(static_cast<unsigned char*>(pointer) - guard, bytes + 2 * guard);
}

uint32_t shared_offset(const void* pointer) {
  const Block& block = *current_fiber().block;
  const unsigned char* at = static_cast<const unsigned char*>(pointer);
  if (at < block.arena || at > block.arena + block.arena_bytes) fail(0, "%p is no shared-memory pointer", pointer);
  return kSharedBase + static_cast<uint32_t>(at - block.arena);
}

unsigned char* shared_pointer(uint32_t address, uint32_t bytes, uint32_t align, const char* what, int line) {
  const Block& block = *current_fiber().block;
  if (address % align != 0) {
    fail(line, "%s: shared address 0x%x is not %u-byte aligned", what, address - kSharedBase, align);
  }
  if (address < kSharedBase || address - kSharedBase > block.arena_bytes ||
      block.arena_bytes - (address - kSharedBase) < bytes) {
    fail(line, "%s: shared address 0x%x + %u lies outside the block's %u bytes", what, address - kSharedBase, bytes,
         block.arena_bytes);
  }
  return block.arena + (address - kSharedBase);
}

namespace {

// What an access of `bytes` bytes at `at` breaks, or "" when it is within a buffer, or in memory unknown here.
void describe_access(const char* verb, uintptr_t at, size_t bytes, char* text, size_t text_bytes) {
  text[0] = 0;
  const std::shared_lock<std::shared_mutex> guard(buffers_lock());
  const auto after = buffers().upper_bound(at);
  if (after != buffers().begin()) {
    const auto& [base, buffer] = *std::prev(after);
    const uintptr_t end = base + buffer.bytes;
    const bool owned = buffer.mapping != nullptr;
    const uintptr_t reach =
        owned ? reinterpret_cast<uintptr_t>(buffer.mapping) + buffer.mapping_bytes + guard_bytes() : round_up(end, 16);
    if (at < end && end - at < bytes) {
      snprintf(text, text_bytes, "%s bytes %zu to %zu of a buffer of %zu bytes", verb, static_cast<size_t>(at - base),
               static_cast<size_t>(at - base) + bytes, buffer.bytes);
    } else if (at >= end && at < reach) {
      snprintf(text, text_bytes, "%s %zu bytes past the end of a buffer of %zu bytes", verb,
               static_cast<size_t>(at - end), buffer.bytes);
    }
    if (at < reach) return;
  }
  if (after == buffers().end() || after->second.mapping == nullptr) return;
  if (at >= reinterpret_cast<uintptr_t>(after->second.mapping) - guard_bytes()) {
    snprintf(text, text_bytes, "%s %zu bytes before the start of a buffer of %zu bytes", verb,
             static_cast<size_t>(after->first - at), after->second.bytes);
  }
}

// First byte of [from, to) that is not 0xFF, or `to`.
unsigned char* first_written(unsigned char* from, unsigned char* to) {
  while (from < to && *from == 0xFF) ++from;
  return from;
}

}  // namespace

void check_source(const void* source, size_t bytes, const char* what, int line) {
  char text[128];
  // `fail` never comes back to unlock: the registry is asked in a function of its own.
  describe_access("reads", reinterpret_cast<uintptr_t>(source), bytes, text, sizeof text);
  if (text[0] != 0) fail(line, "%s %s", what, text);
}

void check_destination(const void* destination, size_t bytes, const char* what, int line) {
  char text[128];
  describe_access("writes", reinterpret_cast<uintptr_t>(destination), bytes, text, sizeof text);
  if (text[0] != 0) fail(line, "%s %s", what, text);
}

bool check_slack(char* text, size_t text_bytes) {
  const std::shared_lock<std::shared_mutex> guard(buffers_lock());
  for (const auto& [base, buffer] : buffers()) {
    if (!buffer.guarded || buffer.owner != &this_thread) continue;
    unsigned char* const start = buffer.mapping + (base - reinterpret_cast<uintptr_t>(buffer.mapping));
    unsigned char* const end = start + buffer.bytes;
    unsigned char* const mapping_end = buffer.mapping + buffer.mapping_bytes;
    const unsigned char* const before = first_written(buffer.mapping, start);
    const unsigned char* const behind = first_written(end, mapping_end);
    if (before != start) {
      snprintf(text, text_bytes, "memory written %zu bytes before the start of a buffer of %zu bytes",
               static_cast<size_t>(start - before), buffer.bytes);
    } else if (behind != mapping_end) {
      snprintf(text, text_bytes, "memory written %zu bytes past the end of a buffer of %zu bytes",
               static_cast<size_t>(behind - end), buffer.bytes);
    } else {
      continue;
    }
    // Said once: the next launch is not to blame.
    memset(buffer.mapping, 0xFF, static_cast<size_t>(start - buffer.mapping));
    memset(end, 0xFF, static_cast<size_t>(mapping_end - end));
    return false;
  }
  return true;
}

void describe_address(const void* address, char* text, size_t text_bytes) {
  text[0] = 0;
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  const std::shared_lock<std::shared_mutex> guard(buffers_lock());
  const auto after = buffers().upper_bound(at);
  size_t nearest = size_t{1} << 20;
  if (after != buffers().begin()) {
    const auto& [base, buffer] = *std::prev(after);
    const uintptr_t end = base + buffer.bytes;
    if (at >= end && at - end < nearest) {
      nearest = at - end;
      snprintf(text, text_bytes, "%zu bytes past the end of a buffer of %zu bytes", nearest, buffer.bytes);
    }
  }
  if (after != buffers().end() && after->first - at < nearest) {
    snprintf(text, text_bytes, "%zu bytes before the start of a buffer of %zu bytes",
             static_cast<size_t>(after->first - at), after->second.bytes);
  }
}

}  // namespace lacuna_simt

extern "C" void* lacuna_simt_alloc(uint64_t bytes, int32_t guard) {
  using namespace lacuna_simt;
  if (bytes > (uint64_t{1} << 46)) return nullptr;
  const size_t size = static_cast<size_t>(bytes);
  Buffer buffer{size, nullptr, 0, guard != 0, &this_thread};
  unsigned char* pointer = nullptr;
  if (guard != 0 || bytes > kLazyBytes) {
    const size_t mapped = round_up(size > 0 ? size : 1, page_bytes());
    unsigned char* usable = static_cast<unsigned char*>(map_guarded(mapped));
    if (usable == nullptr) return nullptr;
    buffer.mapping = usable;
    buffer.mapping_bytes = mapped;
    pointer = guard == 1 ? usable + mapped - round_up(size, 16) : usable;
    if (bytes <= kLazyBytes) {
      memset(usable, 0xFF, mapped);
    } else if (guard != 0) {
      memset(usable, 0xFF, static_cast<size_t>(pointer - usable));
      memset(pointer + size, 0xFF, static_cast<size_t>(usable + mapped - (pointer + size)));
    }
  } else {
    pointer = static_cast<unsigned char*>(aligned_alloc(64, round_up(size > 0 ? size : 1, 64)));
    if (pointer == nullptr) return nullptr;
    memset(pointer, 0xFF, round_up(size > 0 ? size : 1, 64));
  }
  const std::unique_lock<std::shared_mutex> lock(buffers_lock());
  buffers()[reinterpret_cast<uintptr_t>(pointer)] = buffer;
  return pointer;
}

extern "C" void lacuna_simt_free(void* pointer) {
  using namespace lacuna_simt;
  if (pointer == nullptr) return;
  Buffer buffer{};
  {
    const std::unique_lock<std::shared_mutex> lock(buffers_lock());
    const auto found = buffers().find(reinterpret_cast<uintptr_t>(pointer));
    if (found == buffers().end()) return;
    buffer = found->second;
    buffers().erase(found);
  }
  if (buffer.mapping != nullptr) {
    unmap_guarded(buffer.mapping, buffer.mapping_bytes);
  } else {
    free(pointer);
  }
}
