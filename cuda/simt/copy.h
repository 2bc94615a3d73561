// cp.async on the SIMT host.
#pragma once

#include <stdint.h>

#include "simt/fiber.h"

namespace lacuna_simt {

void copy_issue(uint32_t destination, const void* source, int source_bytes, int line);
void copy_commit();
void copy_wait(int pending, int line);

}  // namespace lacuna_simt
