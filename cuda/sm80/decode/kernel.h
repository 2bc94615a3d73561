// Portable decode attention: 1 to 16 queries a sequence against long keys (split-KV, as in Flash-Decoding), over the
// blocks of any plan.
//
// A thread block owns the packed rows of the query heads that share a KV head and a plan head, and one split of the
// keys that they visit. Warps that share rows take different slots of a key tile; their states are merged at the end in
// a fixed order. Sequences have lengths of their own on the device.
#pragma once

#include "sm80/decode/traits.h"
#include "sm80/forward/kernel.h"

namespace LACUNA_NS {
namespace sm80 {

struct DecodeWork {
  int batch;
  int group;
  int first_row;  // packed row of the tile's row 0
  int split;
};

// The last groups come first, of all sequences: dense heads, whose splits are the longest, are the last ones.
__device__ __forceinline__ DecodeWork decode_work(const DecodeArgs& args, int index, int tile_rows) {
  DecodeWork work;
  work.split = index % args.params.splits;
  index /= args.params.splits;
  work.first_row = index % args.row_tiles * tile_rows;
  index /= args.row_tiles;
  work.group = args.groups - 1 - index / args.params.shape.batch;
  work.batch = index % args.params.shape.batch;
  return work;
}

// A packed row as (head, query); present: it is one of the group's.
struct PackedRow {
  int head;
  int query;
  bool present;
};

__device__ __forceinline__ PackedRow packed_row(const DecodeArgs& args, const DecodeWork& work, int row) {
  const int packed = work.first_row + row;
  const int q_len = args.params.shape.q_len;
  return PackedRow{work.group * args.pack + packed / q_len, packed % q_len, packed < args.pack * q_len};
}

template <class Traits>
__device__ __forceinline__ void load_packed(typename Traits::Element* tile, const DecodeArgs& args,
                                            const DecodeWork& work) {
  using T = typename Traits::Element;
  constexpr int kChunks = Traits::kHeadDim / 8;
  const lacuna_forward_params& p = args.params;
  for (int piece = thread_index(); piece < Traits::kTileRows * kChunks; piece += Traits::kThreads) {
    const int row = piece / kChunks;
    const int chunk = piece % kChunks;
    PackedRow from = packed_row(args, work, row);
    if (!from.present) from.head = from.query = 0;
    const T* source = static_cast<const T*>(p.q) + work.batch * p.q_stride.batch + from.head * p.q_stride.head +
                      from.query * p.q_stride.seq + chunk * 8;
    load_chunk(tile + swizzled<Traits::kHeadDim>(row, chunk), source, from.present, args.q_vectors);
  }
}

// What a lane knows of its two fragment rows.
struct LaneRows {
  KeyRange range[2];  // keys that the row sees; none for rows that are not there
  uint32_t group[2];  // bit of the plan query block that holds it
};

__device__ __forceinline__ LaneRows lane_rows(const DecodeArgs& args, const DecodeWork& work,
                                              const DecodeSource& source, int warp_row) {
  LaneRows rows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const PackedRow row = packed_row(args, work, fragment_row(warp_row, r));
    const int64_t position = key_position(source.shape, row.query);
    rows.range[r] =
        row.present ? visible_keys(args.params.mask, source.shape.kv_len, position, position) : KeyRange{0, 0};
    rows.group[r] = 1u << ((row.query + source.plan.row_shift) / source.plan.block_q);
  }
  return rows;
}

__device__ __forceinline__ void mask_packed(float (&scores)[2][4], const LaneRows& rows, uint32_t wanting,
                                            int first_key) {
  const int column = first_key + 2 * (thread_index() % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool wants = (wanting & rows.group[r]) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = column + 8 * (i >> 1) + (i & 1);
      if (!wants || key < rows.range[r].low || key >= rows.range[r].high) {
        scores[i >> 1][2 * r + (i & 1)] = minus_infinity();
      }
    }
  }
}

// The warps that share rows hand their states to the first of them, which takes them in order. Ends with the whole
// result in the warps of the first kRowWarps.
template <class Traits>
__device__ __forceinline__ void merge_key_warps(float* memory, float factor, RowState& state,
                                                Accumulator<Traits>& acc) {
  constexpr int kDim = Traits::kHeadDim;
  const int warp = thread_index() / 32;
  const int lane = thread_index() % 32;
  float* const mine = memory + (warp - Traits::kRowWarps) * Traits::kRegisters * 32 + lane;
  quad_sum(state.sum);
  if (warp >= Traits::kRowWarps) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      mine[r * 32] = state.maximum[r];
      mine[(2 + r) * 32] = state.sum[r];
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) mine[(4 + 4 * n + i) * 32] = acc.o[n][i];
    }
  }
  sync_threads();
  if (warp >= Traits::kRowWarps) return;
#pragma unroll 1
  for (int other = 1; other < Traits::kKeyWarps; ++other) {
    const float* const theirs = memory + (warp + (other - 1) * Traits::kRowWarps) * Traits::kRegisters * 32 + lane;
    float own[2];
    float added[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float maximum = max_float(state.maximum[r], theirs[r * 32]);
      own[r] = softmax_rescale(state.maximum[r], maximum, factor);
      added[r] = softmax_rescale(theirs[r * 32], maximum, factor);
      state.sum[r] = state.sum[r] * own[r] + theirs[(2 + r) * 32] * added[r];
      state.maximum[r] = maximum;
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        acc.o[n][i] = acc.o[n][i] * own[i >> 1] + theirs[(4 + 4 * n + i) * 32] * added[i >> 1];
      }
    }
  }
}

// state.sum is whole in every lane.
template <class Traits>
__device__ __forceinline__ void write_packed(const DecodeArgs& args, const DecodeWork& work, int warp_row, float factor,
                                             const RowState& state, const Accumulator<Traits>& acc) {
  using T = typename Traits::Element;
  const lacuna_forward_params& p = args.params;
  const int quad_lane = thread_index() % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const PackedRow row = packed_row(args, work, fragment_row(warp_row, r));
    if (!row.present) continue;
    const RowResult result = row_result(p, row.head, work.split, factor, state.maximum[r], state.sum[r]);
    if (quad_lane == 0) write_lse(p, work.split, work.batch, row.head, row.query, result.lse);
    if (p.splits > 1) {
      float* out = p.partial_out + partial_row(p, work.split, work.batch, row.head, row.query) * Traits::kHeadDim +
                   2 * quad_lane;
#pragma unroll
      for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
        out[8 * n] = acc.o[n][2 * r] * result.factor;
        out[8 * n + 1] = acc.o[n][2 * r + 1] * result.factor;
      }
      continue;
    }
    T* out = static_cast<T*>(p.out) + work.batch * p.out_stride.batch + row.head * p.out_stride.head +
             row.query * p.out_stride.seq + 2 * quad_lane;
#pragma unroll
    for (int n = 0; n < Traits::kHeadDim / 8; ++n) {
      const float low = acc.o[n][2 * r] * result.factor;
      const float high = acc.o[n][2 * r + 1] * result.factor;
      if (args.out_pairs) {
        *reinterpret_cast<uint32_t*>(out + 8 * n) = pack<T>(low, high);
      } else {
        out[8 * n] = from_float<T>(low);
        out[8 * n + 1] = from_float<T>(high);
      }
    }
  }
}

// The rows of a split without keys: their LSE, and zeros only if somebody reads them. That is where there is one split,
// and in the first one if a sink makes the LSE finite.
template <class Traits>
__device__ __forceinline__ void write_empty(const DecodeArgs& args, const DecodeWork& work) {
  using T = typename Traits::Element;
  const lacuna_forward_params& p = args.params;
  for (int index = thread_index(); index < Traits::kTileRows; index += Traits::kThreads) {
    const PackedRow row = packed_row(args, work, index);
    if (!row.present) continue;
    const RowResult result = row_result(p, row.head, work.split, 1.0f, minus_infinity(), 0.0f);
    write_lse(p, work.split, work.batch, row.head, row.query, result.lse);
  }
  if (p.splits > 1 && (p.sink == nullptr || work.split > 0)) return;
  for (int index = thread_index(); index < Traits::kTileRows * Traits::kHeadDim; index += Traits::kThreads) {
    const PackedRow row = packed_row(args, work, index / Traits::kHeadDim);
    const int column = index % Traits::kHeadDim;
    if (!row.present) continue;
    if (p.splits > 1) {
      p.partial_out[partial_row(p, work.split, work.batch, row.head, row.query) * Traits::kHeadDim + column] = 0.0f;
    } else {
      static_cast<T*>(p.out)[work.batch * p.out_stride.batch + row.head * p.out_stride.head +
                             row.query * p.out_stride.seq + column] = T{0};
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kTile.blocks)
    decode_kernel(const __grid_constant__ DecodeArgs args) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kSlots = Traits::kSlots;
  constexpr int kOwn = Traits::kOwnSlots;
  constexpr int kStages = Traits::kStages;
  const lacuna_forward_params& p = args.params;
  const DecodeWork work = decode_work(args, block_index(), Traits::kTileRows);
  auto& smem = shared<typename Traits::Shared>();
  DecodeSource& source = smem.source;
  const int warp = thread_index() / 32;
  const int row_warp = warp % Traits::kRowWarps;
  const int key_warp = warp / Traits::kRowWarps;
  const int kv_head = static_cast<int>(static_cast<int64_t>(work.group) * p.shape.kv_heads / args.groups);

  if (thread_index() == 0) {
    source.start(p, work.batch, kv_head,
                 static_cast<int>(static_cast<int64_t>(work.group) * p.plan.heads / args.groups));
  }
  sync_threads();
  if (!take_split<Traits::kThreads>(source, smem.template scratch<int32_t>(), p, work.split)) {
    write_empty<Traits>(args, work);
    return;
  }
  load_packed<Traits>(smem.query(), args, work);
  cp_async_commit();

  const int kv_len = source.shape.kv_len;
  const T* k = static_cast<const T*>(p.k) + kv_head * p.k_stride.head;
  const T* v = static_cast<const T*>(p.v) + kv_head * p.v_stride.head;
  const auto load_tile = [&](int stage, const KeyTile<kSlots>& keys) {
    load_slots<Traits::kThreads, kDim>(smem.k[stage], k, p.k_stride, keys, kv_len, args.k_vectors);
    load_slots<Traits::kThreads, kDim>(smem.v[stage], v, p.v_stride, keys, kv_len, args.v_vectors);
  };
  // One tile is listed while those before it are on their way.
#pragma unroll 1
  for (int tile = 0;; ++tile) {
    if (thread_index() == 0) source.fill(smem.keys[tile]);
    if (tile == kStages - 1) break;
    sync_threads();
    if (smem.keys[tile].key[0] >= 0) load_tile(tile, smem.keys[tile]);
    cp_async_commit();
  }

  uint32_t query[kDim / 16][4];
  if constexpr (Traits::kTile.keep_query) {
    cp_async_wait<kStages - 1>();
    sync_threads();
    uint32_t address[kDim / 16];
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      address[i] = piece_address<kDim, false>(smem.query(), row_warp * kGroupRows, 16 * i);
    }
    ldmatrix_x4<false>(query, address);
  }

  const ScoreRule rule = score_rule(p);
  const int warp_row = row_warp * kGroupRows;
  const LaneRows rows = lane_rows(args, work, source, warp_row);
  RowState state = empty_rows();
  Accumulator<Traits> acc = {};

  for (int step = 0; smem.keys[step % Traits::kKeyTiles].key[0] >= 0; ++step) {
    const int stage = step % kStages;
    const KeyTile<kSlots>& keys = smem.keys[step % Traits::kKeyTiles];
    const KeyTile<kSlots>& following = smem.keys[(step + kStages - 1) % Traits::kKeyTiles];
    // This tile has landed for everyone, and everyone has left the stage of the one before it (the first time: has Q).
    cp_async_wait<kStages - 2>();
    sync_threads();
    if (following.key[0] >= 0) load_tile((step + kStages - 1) % kStages, following);
    cp_async_commit();
    if (thread_index() == 0) source.fill(smem.keys[(step + kStages) % Traits::kKeyTiles]);
    sync_warp();

    float scores[kOwn][2][4];
    bool any = false;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int slot = key_warp + i * Traits::kKeyWarps;
      if (slot < kSlots && keys.key[slot] >= 0) {
        any = true;
        query_key<Traits>(scores[i], query, smem, stage, slot, row_warp);
        if (rule.transform) {
#pragma unroll
          for (int j = 0; j < 8; ++j) scores[i][j >> 2][j & 3] = transformed(rule, scores[i][j >> 2][j & 3]);
        }
        mask_packed(scores[i], rows, keys.rows[slot], keys.key[slot]);
      } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) scores[i][j >> 2][j & 3] = minus_infinity();
      }
    }
    if (any) {
      float rescale[2];
      softmax_step(reinterpret_cast<float(&)[8 * kOwn]>(scores), rule.factor, state, rescale);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc.o[n][i] *= rescale[i >> 1];
      }
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int slot = key_warp + i * Traits::kKeyWarps;
        if (slot < kSlots && keys.key[slot] >= 0) probability_value<Traits>(acc, scores[i], smem, stage, slot);
      }
    }
  }
  cp_async_wait<0>();
  sync_threads();
  merge_key_warps<Traits>(smem.template scratch<float>(), rule.factor, state, acc);
  if (warp < Traits::kRowWarps) write_packed<Traits>(args, work, warp_row, rule.factor, state, acc);
}

}  // namespace sm80
}  // namespace LACUNA_NS
