// Which shared memory was written through the generic proxy and not fenced since: asynchronous readers may not see it.
#pragma once

#include <stdint.h>

namespace lacuna_simt {

// The current thread writes [address, address + bytes) of shared memory with ordinary instructions.
void proxy_generic_write(uint32_t address, uint32_t bytes, int line);
// The current thread makes its ordinary writes visible to asynchronous readers.
void proxy_fence();
// An asynchronous operation issued by the current thread at `line` reads (or, for loads, overwrites) the range: fails
// if an ordinary write to it was not fenced by its writer. For checking launches.
void proxy_check_read(uint32_t address, uint32_t bytes, const char* what, int line);
void proxy_check_overwrite(uint32_t address, uint32_t bytes, const char* what, int line);
// An asynchronous operation has written the range: earlier ordinary writes to it are gone.
void proxy_async_write(uint32_t address, uint32_t bytes);

}  // namespace lacuna_simt
