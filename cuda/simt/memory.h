// Memory of the SIMT host: shared arenas, guarded buffers and their registry, faults.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "simt/fiber.h"

namespace lacuna_simt {

// Shared addresses start at a non-zero, 1024-aligned base, as swizzles depend on absolute address bits.
constexpr uint32_t kSharedBase = 1024;

// Pointer into the arena -> shared address; fails if it points elsewhere.
uint32_t shared_offset(const void* pointer);
// Shared address -> pointer; fails unless [address, address + bytes) lies in the arena and is `align`-aligned.
unsigned char* shared_pointer(uint32_t address, uint32_t bytes, uint32_t align, const char* what, int line);

size_t page_bytes();
// Usable bytes (a multiple of the page size) between two guard pages; null when out of memory.
void* map_guarded(size_t bytes);
void unmap_guarded(void* pointer, size_t bytes);

// In a checking launch: fails if [source, source + bytes) runs over the end of a registered buffer.
void check_source(const void* source, size_t bytes, const char* what, int line);
// Names the buffer near an address: "17 bytes past the end of a buffer of 4096 bytes"; empty if none is near.
void describe_address(const void* address, char* text, size_t text_bytes);

// Fault handlers exist while a checking launch runs and at no other time.
void install_fault_handler();
void remove_fault_handler();
// Each worker's signal stack, for faults on a fiber's own stack.
void use_signal_stack();
void drop_signal_stack();

}  // namespace lacuna_simt
