// lacuna: sparse attention on NVIDIA GPUs, and the same kernels on the CPU (the "SIMT host"). C11 and C++17.
//
//   lacuna_device_open, lacuna_stream_create      where to run
//   lacuna_plan_dense, _window, _s2, _from_mask   which blocks of keys each block of queries attends
//   lacuna_schedule_create                        the plan arranged for a kernel (lists only)
//   lacuna_forward_workspace, lacuna_forward      attention over it
//   lacuna_columns_create, lacuna_backward        its gradients
//
// Errors. A function that can fail returns a lacuna_status. On anything but LACUNA_OK it has written nothing through
// its output pointers, unless a launch failed, and lacuna_last_error() has one sentence that says what was expected and
// what was given. Any function may return LACUNA_ERROR_NULL, _STRUCT, _HANDLE (bad arguments) or _PANIC (a defect of
// this library, caught); what else it returns is said beside it. Nothing is printed, and no Rust panic reaches the
// caller.
//
// Structs start with struct_size. lacuna_X_init(&x, sizeof x) sets it and the default of every field. A struct of an
// older header is accepted, and the fields that it lacks have their defaults. One of a newer header is accepted while
// the fields that this library does not know are zero. Reserved fields are zero.
//
// Handles (lacuna_device* and so on) are numbers, not addresses. One that was destroyed, is of another kind or never
// was a handle is LACUNA_ERROR_HANDLE. Objects keep what they need: a device may be destroyed before its streams.
// Destroying null does nothing. Any thread may use any handle; an object that another thread destroys lives until its
// calls return.
//
// Memory. Tensors lie where the device of the stream can read them: in host memory for the SIMT host, in the memory of
// the GPU for CUDA. They are used in the order of the stream given, and nothing is copied. On the SIMT host a call
// returns when its work is done; on CUDA it returns once the work is queued. lacuna_forward, lacuna_decode,
// lacuna_merge, lacuna_backward, lacuna_hyper_update, lacuna_hyper_update_with_values, lacuna_hyper_forward,
// lacuna_hyper_backward, lacuna_gate_select, lacuna_gate_cache_append, lacuna_page_lists, lacuna_s2_cache_append,
// lacuna_plan_set_mask, lacuna_schedule_rebuild and lacuna_columns_rebuild never allocate device memory, never wait and
// never copy to the host: a CUDA graph may hold them. Outputs must not overlap inputs or each other.
#ifndef LACUNA_H
#define LACUNA_H

#define LACUNA_VERSION_MAJOR 0
#define LACUNA_VERSION_MINOR 1
#define LACUNA_VERSION_PATCH 0

#include "lacuna/attention.h"
#include "lacuna/cache.h"
#include "lacuna/core.h"
#include "lacuna/gradient.h"
#include "lacuna/hyper.h"
#include "lacuna/plan.h"
#include "lacuna/seer.h"
#include "lacuna/tensor.h"

#endif
