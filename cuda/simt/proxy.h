// Which shared memory was written through the generic proxy and not fenced since: asynchronous readers may not see it.
// Ordinary writes are store_shared (ptx/fence_proxy.h), stmatrix and cp.async. All of it is for checking launches; in
// others the calls return at once.
#pragma once

#include <stdint.h>

namespace lacuna_simt {

// The current thread writes [address, address + bytes) of shared memory with ordinary instructions.
void proxy_generic_write(uint32_t address, uint32_t bytes, int line);
// The current thread issues a cp.async of 16 bytes into its commit group `group`. A fence covers it after its wait
// only.
void proxy_copy(uint32_t address, uint32_t group, int line);
// The current thread waits for its copies of groups below `group`.
void proxy_await_copies(uint32_t group);
// The current thread makes its ordinary writes visible to asynchronous readers.
void proxy_fence();
// An asynchronous operation issued by the current thread at `line` reads (or, for loads, overwrites) the range: fails
// if an ordinary write to it was not fenced by its writer.
void proxy_check_read(uint32_t address, uint32_t bytes, const char* what, int line);
void proxy_check_overwrite(uint32_t address, uint32_t bytes, const char* what, int line);
// The current thread has issued an asynchronous operation that writes the range: ordinary writes to it are gone.
void proxy_async_write(uint32_t address, uint32_t bytes);

}  // namespace lacuna_simt
