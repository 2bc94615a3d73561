// Memory faults of checking launches become errors that name block, thread and address. The handler only redirects
// the faulting context to a landing function on an emergency stack (a longjmp across stacks aborts under
// _FORTIFY_SOURCE); the landing reports and leaves the kernel. Faults outside fibers go to the previous handler.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <mutex>

#include "simt/error.h"
#include "simt/memory.h"

namespace lacuna_simt {

namespace {

constexpr size_t kStackBytes = 64 * 1024;

std::mutex handler_lock;
int handler_users = 0;
struct sigaction previous_segv;
struct sigaction previous_bus;

// One per worker thread: a signal stack and, above it, the emergency stack of the landing.
thread_local unsigned char* fault_stacks = nullptr;
thread_local stack_t previous_stack;
thread_local void* fault_address = nullptr;

void land() {
  const Fiber& self = current_fiber();
  const unsigned char* at = static_cast<const unsigned char*>(fault_address);
  const unsigned char* low = static_cast<const unsigned char*>(self.stack_low);
  const Block& block = *self.block;
  if (at < low && at >= low - guard_bytes()) fail(0, "stack overflow: a frame reaches below the thread's stack");
  if (at >= block.arena_end && at < block.arena_end + guard_bytes()) {
    fail(0, "shared memory accessed %zu bytes past the end of its %u bytes",
         static_cast<size_t>(at - (block.arena + block.arena_bytes)), block.arena_bytes);
  }
  char where[128];
  describe_address(fault_address, where, sizeof where);
  fail(0, "memory fault at %p%s%s", fault_address, where[0] != 0 ? ": " : "", where);
}

void on_fault(int signal, siginfo_t* info, void* context) {
  const Worker* worker = current_worker;
  if (worker == nullptr || worker->current == nullptr || fault_stacks == nullptr) {
    const struct sigaction& previous = signal == SIGBUS ? previous_bus : previous_segv;
    if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr) {
      previous.sa_sigaction(signal, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
      previous.sa_handler(signal);
    } else {
      // Default action: return to the faulting instruction without this handler.
      ::signal(signal, SIG_DFL);
    }
    return;
  }
  fault_address = info->si_addr;
  ucontext_t* machine = static_cast<ucontext_t*>(context);
  const uintptr_t top = reinterpret_cast<uintptr_t>(fault_stacks + 2 * kStackBytes);
#if defined(__x86_64__)
  machine->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(&land);
  machine->uc_mcontext.gregs[REG_RSP] = static_cast<greg_t>(top - 8);  // as after a call
#else
  machine->uc_mcontext.pc = reinterpret_cast<uintptr_t>(&land);
  machine->uc_mcontext.sp = top;
#endif
}

}  // namespace

void install_fault_handler() {
  const std::lock_guard<std::mutex> guard(handler_lock);
  if (handler_users++ > 0) return;
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, &previous_segv);
  sigaction(SIGBUS, &action, &previous_bus);
}

void remove_fault_handler() {
  const std::lock_guard<std::mutex> guard(handler_lock);
  if (--handler_users > 0) return;
  sigaction(SIGSEGV, &previous_segv, nullptr);
  sigaction(SIGBUS, &previous_bus, nullptr);
}

void use_signal_stack() {
  fault_stacks = static_cast<unsigned char*>(map_guarded(2 * kStackBytes));
  if (fault_stacks == nullptr) return;
  stack_t stack = {};
  stack.ss_sp = fault_stacks;
  stack.ss_size = kStackBytes;
  sigaltstack(&stack, &previous_stack);
}

void drop_signal_stack() {
  if (fault_stacks == nullptr) return;
  sigaltstack(&previous_stack, nullptr);
  unmap_guarded(fault_stacks, 2 * kStackBytes);
  fault_stacks = nullptr;
}

}  // namespace lacuna_simt
