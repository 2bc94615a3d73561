// Each fact and measure runs in a process of its own: one that hangs or breaks the device must not take the others with
// it.
#pragma once

#include <string>

namespace facts {

enum class End { kExited, kSignalled, kTimedOut, kNotStarted };

struct ChildResult {
  End end;
  int code;            // exit code, or the signal
  std::string output;  // standard output
};

// Runs this program again as `program --child name`; kills it after `seconds`.
ChildResult run_child(const char* name, int seconds);

}  // namespace facts
