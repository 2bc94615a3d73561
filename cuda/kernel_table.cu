// The table through which every caller reaches the kernels of one machine.
#include <stdlib.h>

#include "families.h"
#include "ptx/launch.h"

#if !LACUNA_SIMT
#ifndef LACUNA_BUILT_ARCHS
#error "define LACUNA_BUILT_ARCHS as the list of architectures, e.g. \"80;90a;80+PTX\""
#endif

namespace LACUNA_NS {

// On the heap, as thread storage may be scarce where the library is loaded late. Threads that get no memory share one.
char* error_buffer() {
  struct Text {
    char* memory = static_cast<char*>(calloc(1, 1024));
    ~Text() { free(memory); }
  };
  static thread_local Text text;
  static char shared[1024] = {0};
  return text.memory == nullptr ? shared : text.memory;
}

const char* last_error() { return error_buffer(); }

}  // namespace LACUNA_NS
#endif

#if LACUNA_SIMT
#define LACUNA_TABLE lacuna_simt_kernels
#define LACUNA_MACHINE_NAME "simt"
#define LACUNA_BUILT_ARCHS "simt"
#else
#define LACUNA_TABLE lacuna_cuda_kernels
#define LACUNA_MACHINE_NAME "cuda"
#endif

// The one symbol that a shared library of the kernels exports; all others are hidden.
extern "C" __attribute__((visibility("default"))) const lacuna_kernel_table* LACUNA_TABLE(void) {
  static const lacuna_kernel_table table = {
      LACUNA_KERNELS_ABI,         0,
      LACUNA_MACHINE_NAME,        LACUNA_BUILT_ARCHS,
      LACUNA_NS::forward_config,  LACUNA_NS::forward,
      LACUNA_NS::merge,           LACUNA_NS::schedule_build,
      LACUNA_NS::mask_to_lists,   LACUNA_NS::plan_to_mask,
      LACUNA_NS::decode_config,   LACUNA_NS::decode,
      LACUNA_NS::page_table,      LACUNA_NS::cache_append,
      LACUNA_NS::gate_pool,       LACUNA_NS::gate_project,
      LACUNA_NS::gate_select,     LACUNA_NS::block_max,
      LACUNA_NS::hyper_sizes,     LACUNA_NS::hyper_plan,
      LACUNA_NS::gather_config,   LACUNA_NS::gather_forward,
      LACUNA_NS::backward_config, LACUNA_NS::backward_schedule,
      LACUNA_NS::backward,        LACUNA_NS::gather_backward_config,
      LACUNA_NS::gather_backward, LACUNA_NS::last_error,
  };
  return &table;
}
