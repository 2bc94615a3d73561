// Lanes of a warp that fall behind at an mbarrier. A wait names a parity only: a lane that comes to it when the barrier
// is two phases ahead of the phase it means sees the same parity again, and waits for ever or passes a phase too late.
// Threads of a GPU's warp mostly run converged, so there such a bug hides.
//
// Rule: lanes that have made the same waits so far make the same next one. When a lane's c-th wait on the barrier reads
// a later phase of the same parity than the c-th wait of the first lane to come there, from the same line and with no
// meeting of the warp in between, the lane is late. Anything else that differs (other lines or parities, lanes that
// wait alone) shows that lanes do different things; then this warp and barrier are not compared any more. So a lane is
// never reported at its first wait; a bug there ends in a deadlock, whose report says which lanes made fewer waits.
#pragma once

#include <stdint.h>

namespace lacuna_simt {

struct WaitHistory {
  struct Wait {
    int64_t phase;
    uint64_t meetings;  // of the warp, before the wait
    int line;
  };
  static constexpr uint32_t kRecent = 8;

  bool comparable = true;
  uint32_t most = 0;        // waits of the lane that has made most
  uint32_t waits[32] = {};  // of each lane
  Wait recent[kRecent];     // wait c, as the first lane made it, at c % kRecent

  // False: the lane is late; *meant is the phase that its wait means.
  bool add(int lane, const Wait& wait, int64_t* meant) {
    if (!comparable) return true;
    const uint32_t c = waits[lane]++;
    if (c == most) {
      recent[c % kRecent] = wait;
      ++most;
      return true;
    }
    const Wait& first = recent[c % kRecent];
    const bool kept = most - c <= kRecent;
    const bool same_place = kept && first.line == wait.line && first.meetings == wait.meetings;
    if (same_place && first.phase == wait.phase) return true;
    comparable = false;
    *meant = first.phase;
    const int64_t late = wait.phase - first.phase;
    return !(same_place && c > 0 && late > 0 && late % 2 == 0);
  }

  // Those of `lanes` that have made fewer waits than another lane: a hint for the report of a deadlock.
  uint32_t fewer(uint32_t lanes) const {
    for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
      if (waits[__builtin_ctz(rest)] == most) lanes &= ~(rest & -rest);
    }
    return lanes;
  }
};

}  // namespace lacuna_simt
