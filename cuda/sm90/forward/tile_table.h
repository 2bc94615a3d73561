// The tile of each head dim of the Hopper forward kernel, with the reason beside it, and which query rows share a tile.
#pragma once

#include "lacuna_kernels.h"
#include "ptx/mbarrier.h"
#include "sm90/forward/key_tiles.h"
#include "sm90/forward/work.h"

namespace LACUNA_NS {
namespace sm90 {

struct ForwardTile {
  int query_buffers;  // 2: the next tile's Q arrives while this one is multiplied, and O leaves from its own buffer
  int stages;         // key tiles in flight, K and V each
  bool take_turns;    // the warpgroups' products alternate, so that one's softmax runs under the other's products
};

// 128 query rows (2 consumer warpgroups of 64) by 128 keys, and a producer warpgroup. Shared memory is
// (query_buffers * 128 + stages * 2 * 128) * head_dim * 2 bytes, at most 227 KB.
constexpr ForwardTile forward_tile(int head_dim) {
  if (head_dim == 64) return {2, 4, true};  // 160 KB: small tiles are short, a deeper ring hides the loads
  return {2, 2, true};                      // 128: 192 KB; a third stage would need 256 KB
}

// Registers of a thread: 168 at entry (65536 / 384 threads), then so many for the producer and the rest for consumers,
// together 504 = 3 * 168. A consumer of D128 holds O (64), S (64) and P (32); with less the producer's walk would
// spill.
constexpr int producer_registers(bool ragged) { return ragged ? 88 : 72; }

// How 128 query rows come to share a load of K and V.
enum class Sharing : int {
  kRows = 0,  // consecutive rows of one head: one 128-row query block, or two of 64 rows over the union of their lists
  kHeads = 1  // 64 rows of two heads that have one list
};

// Two heads of a group with one list share it whole; rows of one head share what their lists have in common.
inline Sharing sharing(const lacuna_forward_params& p) {
  const bool formula_for_all = p.plan.kind == LACUNA_PLAN_FORMULA && p.plan.formula.vertical_stride <= 1;
  const int list_heads = p.shape.q_heads / p.plan.heads;  // query heads with one list
  const int kv_group = p.shape.q_heads / p.shape.kv_heads;
  const bool pairs = list_heads % 2 == 0 && kv_group % 2 == 0;
  return p.plan.block_q == 64 && !formula_for_all && pairs ? Sharing::kHeads : Sharing::kRows;
}

// How K and V come, and whether lengths are read on the device; sequences of one length need no such kernel.
enum class KeyLoads : int {
  kBoxes = 0,        // by TMA; all sequences have the lengths of the shape
  kRaggedBoxes = 1,  // by TMA, but for what crosses the end of a sequence
  kGathered = 2      // by rows with cp.async, whatever the lengths
};

template <int kHeadDim_, class T, KeyLoads kLoads, bool kTransform_>
struct ForwardTraits {
  using Element = T;
  using Args = ForwardArgs;
  using Tile = KeyTile;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kGather = kLoads == KeyLoads::kGathered;
  static constexpr bool kRagged = kLoads != KeyLoads::kBoxes;
  static constexpr bool kListed = false;           // tiles of listed rows (sm90/gather): queries are gathered, too
  static constexpr bool kLeaves = false;           // sequences are the leaves of a gather plan
  static constexpr bool kTransform = kTransform_;  // a softcap, or a scale that is not positive
  static constexpr ForwardTile kTile = forward_tile(kHeadDim);
  static constexpr int kProducerRegisters = producer_registers(kRagged);
  static constexpr int kConsumerRegisters = (3 * 168 - kProducerRegisters) / kConsumers;
  static constexpr int kStages = kTile.stages;
  static constexpr int kQueryBuffers = kTile.query_buffers;
  static constexpr int kPanels = kHeadDim / kPanelElements;
  static constexpr int kPanelBytes = kTileRows * kPanelElements * 2;  // of Q, K or V: 128 rows of 128 bytes
  static constexpr int kQueryTile = kTileRows * kHeadDim;             // elements
  static constexpr int kKeyTile = kTileKeys * kHeadDim;

  // Tiles are panels of 64 elements: [head_dim / 64][rows][64], 128-byte swizzled.
  struct Shared {
    alignas(1024) T q[kQueryBuffers][kQueryTile];
    alignas(1024) T k[kStages][kKeyTile];
    alignas(1024) T v[kStages][kKeyTile];
    KeyTile tile[kStages];
    Work work[kQueryBuffers];
    WalkShared walk;
    GatherRows gather[2];
    Mbarrier q_full[kQueryBuffers];
    Mbarrier q_empty[kQueryBuffers];
    Mbarrier k_full[kStages];
    Mbarrier k_empty[kStages];
    Mbarrier v_full[kStages];
    Mbarrier v_empty[kStages];
  };

  static_assert(sizeof(T) == 2, "q, k and v are 16-bit floats");
  static_assert(kConsumerRegisters % 8 == 0, "setmaxnreg counts in eights");
  static_assert(kHeadDim % kPanelElements == 0, "a head is whole panels");
  static_assert(sizeof(Shared) <= 227 * 1024, "the tile must fit a Hopper multiprocessor");
};

}  // namespace sm90
}  // namespace LACUNA_NS
