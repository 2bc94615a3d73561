// What the tests ask the operating system.
#include <signal.h>
#include <stdint.h>
#include <time.h>

// CPU time of the calling thread, in seconds: other processes do not count.
extern "C" double simt_test_thread_seconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The handler of SIGSEGV (0) or SIGBUS (1), as a number to compare.
extern "C" uint64_t simt_test_fault_handler(int32_t bus) {
  struct sigaction action = {};
  sigaction(bus != 0 ? SIGBUS : SIGSEGV, nullptr, &action);
  return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(action.sa_sigaction));
}

// Writes to address 64.
extern "C" void simt_test_crash() {
  volatile uintptr_t address = 64;
  *reinterpret_cast<volatile int*>(address) = 1;
}
