// Bulk copies and bulk groups on the SIMT host.
#pragma once

#include <stdint.h>

namespace lacuna_simt {

void bulk_copy_in(uint32_t destination, const void* source, int bytes, uint32_t barrier, int line);
void bulk_copy_out(void* destination, uint32_t source, int bytes, int line);
void bulk_reduce_f32(float* destination, uint32_t source, int bytes, int line);
void bulk_close_group();
// read: until the sources are read; else until everything is done.
void bulk_await(int pending, bool read, int line);

}  // namespace lacuna_simt
