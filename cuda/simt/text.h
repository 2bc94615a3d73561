// Text that grows in a fixed buffer; what does not fit is cut off.
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

namespace lacuna_simt {

struct Text {
  char* buffer;
  size_t bytes;
  size_t used = 0;

  __attribute__((format(printf, 2, 3))) void add(const char* format, ...) {
    if (used >= bytes) return;
    va_list values;
    va_start(values, format);
    const int wrote = vsnprintf(buffer + used, bytes - used, format, values);
    va_end(values);
    if (wrote > 0) used += static_cast<size_t>(wrote);
  }
  const char* separator(const char* between) const { return used == 0 ? "" : between; }
};

}  // namespace lacuna_simt
