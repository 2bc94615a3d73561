// The fiber switch. It saves what the platform's calling convention asks a callee to save, and jumps: the popped
// return address is used as an indirect jump because a `ret` would be mispredicted. Nothing may unwind through it.
#include "simt/fiber.h"

#if defined(__x86_64__)
__asm__(R"(
.text
.p2align 4
.globl lacuna_simt_switch
.hidden lacuna_simt_switch
.type lacuna_simt_switch, @function
lacuna_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
.size lacuna_simt_switch, .-lacuna_simt_switch
)");
#elif defined(__aarch64__)
__asm__(R"(
.text
.p2align 4
.globl lacuna_simt_switch
.hidden lacuna_simt_switch
.type lacuna_simt_switch, %function
lacuna_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  br x30
.size lacuna_simt_switch, .-lacuna_simt_switch
)");
#else
#error "the SIMT host knows x86-64 and aarch64; build with --no-default-features elsewhere"
#endif

namespace lacuna_simt {

// Lays out a stack so that the first switch to it enters lacuna_simt_fiber_main.
void* entry_frame(void* stack_top) {
  void** top = static_cast<void**>(stack_top);
#if defined(__x86_64__)
  *--top = nullptr;  // return address of the entry: ends unwinding; leaves sp = 8 mod 16 as after a call
  *--top = reinterpret_cast<void*>(lacuna_simt_fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  return top;
#else
  top -= 20;
  for (int i = 0; i < 20; ++i) top[i] = nullptr;
  top[11] = reinterpret_cast<void*>(lacuna_simt_fiber_main);  // x30
  return top;
#endif
}

}  // namespace lacuna_simt
