// What the backward kernels are launched with: the caller's parameters and what the launcher derived from them.
#pragma once

#include "common/backward_memory.h"
#include "sm80/forward/args.h"

namespace LACUNA_NS {
namespace sm80 {

struct BackwardArgs {
  ForwardArgs forward;  // out_pairs is that of dq
  const void* dout;
  void* dq;
  void* dk;
  void* dv;
  lacuna_strides dout_stride;
  lacuna_strides dq_stride;
  lacuna_strides dk_stride;
  lacuna_strides dv_stride;
  bool dout_vectors;
  bool dk_pairs;
  bool dv_pairs;
  BackwardSchedule schedule;
  BackwardWorkspace workspace;
};

}  // namespace sm80
}  // namespace LACUNA_NS
