// Guarded mappings and the registry of buffers.
#include "simt/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
  void* mapping;  // null: from malloc
  size_t mapping_bytes;
};

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

void* map_guarded(size_t bytes) {
  const size_t page = page_bytes();
  void* all = mmap(nullptr, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all == MAP_FAILED) return nullptr;
  unsigned char* usable = static_cast<unsigned char*>(all) + page;
  if (bytes > 0 && mprotect(usable, bytes, PROT_READ | PROT_WRITE) != 0) {
    munmap(all, bytes + 2 * page);
    return nullptr;
  }
  return usable;
}

void unmap_guarded(void* pointer, size_t bytes) {
  const size_t page = page_bytes();
  munmap(static_cast<unsigned char*>(pointer) - page, bytes + 2 * page);
}

uint32_t shared_offset(const void* pointer) {
  const Block& block = *current_fiber().block;
  const unsigned char* at = static_cast<const unsigned char*>(pointer);
  if (at < block.arena || at > block.arena + block.arena_bytes) fail(0, "%p is no shared-memory pointer", pointer);
  return kSharedBase + static_cast<uint32_t>(at - block.arena);
}

unsigned char* shared_pointer(uint32_t address, uint32_t bytes, uint32_t align, const char* what, int line) {
  const Block& block = *current_fiber().block;
  if (address % align != 0) fail(line, "%s: shared address 0x%x is not %u-byte aligned", what, address, align);
  if (address < kSharedBase || address - kSharedBase > block.arena_bytes ||
      block.arena_bytes - (address - kSharedBase) < bytes) {
    fail(line, "%s: shared address 0x%x + %u lies outside the block's %u bytes", what, address - kSharedBase, bytes,
         block.arena_bytes);
  }
  return block.arena + (address - kSharedBase);
}

void check_source(const void* source, size_t bytes, const char* what, int line) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(source);
  const std::shared_lock<std::shared_mutex> guard(buffers_lock());
  auto after = buffers().upper_bound(at);
  if (after == buffers().begin()) return;
  --after;
  const uintptr_t base = after->first;
  const size_t size = after->second.bytes;
  if (at >= base + round_up(size, 16)) return;  // another buffer, or memory that is not registered
  if (at + bytes > base + size) {
    fail(line, "%s reads bytes %zu to %zu of a buffer of %zu bytes", what, static_cast<size_t>(at - base),
         static_cast<size_t>(at - base) + bytes, size);
  }
}

void describe_address(const void* address, char* text, size_t text_bytes) {
  text[0] = 0;
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  const std::shared_lock<std::shared_mutex> guard(buffers_lock());
  auto after = buffers().upper_bound(at);
  const uintptr_t near = 1 << 20;
  if (after != buffers().begin()) {
    auto before = after;
    --before;
    const uintptr_t end = before->first + before->second.bytes;
    if (at >= end && at - end < near) {
      snprintf(text, text_bytes, "%zu bytes past the end of a buffer of %zu bytes", static_cast<size_t>(at - end),
               before->second.bytes);
      return;
    }
  }
  if (after != buffers().end() && after->first - at < near) {
    snprintf(text, text_bytes, "%zu bytes before the start of a buffer of %zu bytes",
             static_cast<size_t>(after->first - at), after->second.bytes);
  }
}

}  // namespace lacuna_simt

extern "C" void* lacuna_simt_alloc(uint64_t bytes, int32_t guard) {
  using namespace lacuna_simt;
  if (bytes > (uint64_t{1} << 46)) return nullptr;
  const size_t size = static_cast<size_t>(bytes);
  Buffer buffer{size, nullptr, 0};
  unsigned char* pointer = nullptr;
  if (guard != 0 || bytes > kLazyBytes) {
    const size_t mapped = round_up(size > 0 ? size : 1, page_bytes());
    unsigned char* usable = static_cast<unsigned char*>(map_guarded(mapped));
    if (usable == nullptr) return nullptr;
    buffer.mapping = usable;
    buffer.mapping_bytes = mapped;
    pointer = guard == 1 ? usable + mapped - round_up(size, 16) : usable;
    if (bytes <= kLazyBytes) memset(usable, 0xFF, mapped);
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
