// Bank conflicts of ldmatrix and stmatrix.
#pragma once

#include <stdint.h>

namespace lacuna_simt {

// Extra cycles of moving eight 16-byte rows: rows in the same 16-byte bank group conflict unless they are one row.
inline int bank_conflicts(const uint32_t* rows) {
  uint32_t groups = 0;
  for (int i = 0; i < 8; ++i) groups |= 1u << (rows[i] >> 4 & 7);
  if (groups == 0xff) return 0;  // the usual case
  int in_group[8] = {};
  int most = 1;
  for (int i = 0; i < 8; ++i) {
    bool again = false;
    for (int j = 0; j < i; ++j) again |= rows[j] == rows[i];
    if (again) continue;
    const int count = ++in_group[rows[i] >> 4 & 7];
    if (count > most) most = count;
  }
  return most - 1;
}

}  // namespace lacuna_simt
