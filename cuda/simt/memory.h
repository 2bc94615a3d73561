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
// Width of the guards of map_guarded.
size_t guard_bytes();
// Usable bytes (a multiple of the page size) between two guards; null when out of memory.
void* map_guarded(size_t bytes);
void unmap_guarded(void* pointer, size_t bytes);

// In a checking launch: fail if the range runs over an end of a registered buffer.
void check_source(const void* source, size_t bytes, const char* what, int line);
void check_destination(const void* destination, size_t bytes, const char* what, int line);
// After a checking launch: false, with the reason, if somebody wrote beside a guarded buffer without reaching its
// guard. Only buffers of the calling thread count: others may belong to a launch that runs at the same time.
bool check_slack(char* text, size_t text_bytes);
// Names the buffer near an address: "17 bytes past the end of a buffer of 4096 bytes"; empty if none is near.
void describe_address(const void* address, char* text, size_t text_bytes);

// Fault handlers exist while a checking launch runs and at no other time.
void install_fault_handler();
void remove_fault_handler();
// Each worker's signal stack, for faults on a fiber's own stack.
void use_signal_stack();
void drop_signal_stack();

}  // namespace lacuna_simt
