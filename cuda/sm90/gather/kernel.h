// Hopper attention over the pairs of a gather plan: the forward kernel's structure, with a producer warpgroup that
// gathers the rows of Q, K and V by index.
#pragma once

#include "sm90/forward/kernel.h"
#include "sm90/gather/leaves.h"
#include "sm90/gather/producer.h"
#include "sm90/gather/write.h"

namespace LACUNA_NS {
namespace sm90 {

template <class Traits>
__global__ void __launch_bounds__(kThreads, 1) gather_forward_kernel(const __grid_constant__ GatherArgs args) {
  auto& smem = shared<typename Traits::Shared>();
  const int warp = shuffle(thread_index() / 32, 0);
  if (thread_index() == 0) init_barriers<Traits>(smem);
  sync_threads();
  if (warp < kWarpgroupThreads / 32) {
    release_registers<Traits::kProducerRegisters>();
    produce_listed<Traits>(args, smem);
  } else {
    take_registers<Traits::kConsumerRegisters>();
    consume<Traits>(args, smem, warp - kWarpgroupThreads / 32, gather_rule(args.params.scale));
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
