// Hopper forward attention: wgmma, TMA, warp specialisation, a persistent grid. One warpgroup produces (producer.h,
// gather.h), two multiply 64 query rows each (consumer.h) and share every key tile.
#pragma once

#include "ptx/setmaxnreg.h"
#include "sm90/forward/consumer.h"
#include "sm90/forward/gather.h"

namespace LACUNA_NS {
namespace sm90 {

template <class Traits>
__device__ __forceinline__ void init_barriers(typename Traits::Shared& smem) {
  // A warp releases what it has read by one lane; rows that are gathered are announced by each thread that copied some.
  constexpr int kReaders = kConsumers * kWarpgroupThreads / 32;
  constexpr int kWriters = Traits::kGather ? kWarpgroupThreads : 1;
  for (int i = 0; i < Traits::kQueryBuffers; ++i) {
    mbarrier_init(smem.q_full[i], Traits::kListed ? kWarpgroupThreads : 1);
    mbarrier_init(smem.q_empty[i], kReaders);
  }
  for (int i = 0; i < Traits::kStages; ++i) {
    mbarrier_init(smem.k_full[i], kWriters);
    mbarrier_init(smem.k_empty[i], kReaders);
    mbarrier_init(smem.v_full[i], kWriters);
    mbarrier_init(smem.v_empty[i], kReaders);
  }
  fence_mbarrier_init();
}

template <class Traits>
__device__ __forceinline__ void consume(const typename Traits::Args& args, typename Traits::Shared& smem, int warp,
                                        const ScoreRule& rule) {
  Consumer<Traits> work{args, smem, warp / 4, warp % 4, thread_index() % 32, rule, {}, {}, {}};
  work.run();
}

template <class Traits>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const __grid_constant__ typename Traits::Args args) {
  auto& smem = shared<typename Traits::Shared>();
  // The same for all lanes of a warp, in a way the compiler can see.
  const int warp = shuffle(thread_index() / 32, 0);
  if (thread_index() == 0) init_barriers<Traits>(smem);
  sync_threads();
  if (warp < kWarpgroupThreads / 32) {
    release_registers<Traits::kProducerRegisters>();
    if constexpr (Traits::kGather) {
      produce_by_gather<Traits>(args, smem);
    } else if (warp == 0) {
      produce_by_tma<Traits>(args, smem);
    }
  } else {
    take_registers<Traits::kConsumerRegisters>();
    consume<Traits>(args, smem, warp - kWarpgroupThreads / 32, score_rule(args.params));
  }
}

}  // namespace sm90
}  // namespace LACUNA_NS
