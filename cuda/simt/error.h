// Errors found by the SIMT host. A failing kernel is abandoned at once: its fibers never run again (kernels own no
// resources), and the launch returns the text.
#pragma once

#include "simt/fiber.h"

namespace lacuna_simt {

// A deadlock report names every warp and barrier; the launch adds the kernel and the replay line.
constexpr size_t kReportBytes = 4096;
constexpr size_t kFailureBytes = kReportBytes + 512;

// Called from a fiber: reports kernel, block, thread and line, and leaves the kernel. Does not return.
[[noreturn]] void fail(int line, const char* format, ...) __attribute__((format(printf, 2, 3)));
// For errors of no thread (deadlock, an operation that fails as it completes): records and returns. The launch ends
// when the scheduler next runs.
void record_failure(Worker& worker, const char* text);
// The machine itself cannot be built: there is no kernel to blame and no way on.
[[noreturn]] void abort_out_of_memory(const char* what);
// Sets the calling thread's last error and returns `status`.
int32_t set_error(int32_t status, const char* format, ...) __attribute__((format(printf, 2, 3)));
const char* last_error();

}  // namespace lacuna_simt
