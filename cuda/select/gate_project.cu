// Gate vectors from pooled features: out = rope(norm(features * weight)), in f32 on CUDA cores. A thread block makes
// the vectors of one head for a tile of rows (of all sequences in a line), inputs in a ring of stages; every output
// sums over the inputs in their order, so that its bits do not depend on the tile.
#include "families.h"
#include "ptx/cp_async.h"
#include "ptx/cvt.h"
#include "ptx/shared.h"
#include "select/gate_validate.h"
#include "select/gate_vector.h"

namespace LACUNA_NS {

namespace {

constexpr int kDepth = 32;  // inputs of a stage
// Floats from a row of features to the next in a stage: the two rows that a warp reads at once lie in other banks.
constexpr int kFeatureStride = kDepth + 4;
constexpr int kRowGroups = 4;

struct ProjectArgs {
  lacuna_gate_project_params p;
  int32_t inputs;
  int32_t joined;           // rows of features that make an input
  int32_t max_rows;         // rows of features that a sequence may have
  int32_t feature_vectors;  // 16-byte pieces of features are aligned
  int32_t weight_vectors;   // those of weight
  int32_t tiles;            // of rows
};

// kGate: gate vectors of up to so many elements. A thread owns kThreadRows rows and four columns, two of each half.
// One row a thread serves decoding, where few rows are there: four times the tiles, and more stages in flight.
template <class T, int kGate, int kThreadRows>
struct ProjectTile {
  static constexpr int kRows = kRowGroups * kThreadRows;
  static constexpr int kColumnGroups = kGate / 4;
  static constexpr int kThreads = kRowGroups * kColumnGroups;
  static constexpr int kBlocks = 512 / kThreads;  // thread blocks a multiprocessor that registers allow
  static constexpr int kStages = kThreadRows == 1 ? 4 : 2;
  struct Stage {
    alignas(16) float features[kRows * kFeatureStride];
    alignas(16) T weight[kDepth * kGate];  // [kDepth, gate_dim] without gaps
  };
  struct Shared {
    GateVectorRow rows[kRows];
    int32_t present;  // whether any row is
    union {
      Stage stages[kStages];
      float vectors[kRows * kGate];  // [kRows, gate_dim]
    };
  };
};

struct alignas(16) FourFloats {
  float x[4];
};

template <class T>
struct alignas(4) Pair {
  T x[2];
};

// The row of features that holds input k of a head, from its first element on.
__device__ __forceinline__ const float* feature_at(const ProjectArgs& args, const GateVectorRow& row, int head, int k) {
  const lacuna_gate_project_params& p = args.p;
  const int in_head =
      p.join != 0 ? head * args.joined : static_cast<int>(static_cast<int64_t>(head) * p.in_heads / p.heads);
  const int64_t index = static_cast<int64_t>(row.sequence) * p.in_heads + in_head + k / p.width;
  return p.features + (index * p.rows + row.row) * p.width + k % p.width;
}

template <class T, int kGate, int kThreadRows>
__device__ __forceinline__ void load_stage(const ProjectArgs& args,
                                           typename ProjectTile<T, kGate, kThreadRows>::Shared& smem, int stage,
                                           int head, int first) {
  using Tile = ProjectTile<T, kGate, kThreadRows>;
  typename Tile::Stage& to = smem.stages[stage];
  const int gate_dim = args.p.gate_dim;
  const int inputs = args.inputs - first < kDepth ? args.inputs - first : kDepth;

  constexpr int kPieces = kDepth / 4;
  for (int piece = thread_index(); piece < Tile::kRows * kPieces; piece += Tile::kThreads) {
    const GateVectorRow& row = smem.rows[piece / kPieces];
    const int k = piece % kPieces * 4;
    float* const target = to.features + piece / kPieces * kFeatureStride + k;
    if (args.feature_vectors != 0) {
      const bool there = row.out_row >= 0 && k < inputs;
      cp_async_16(shared_address(target), there ? feature_at(args, row, head, first + k) : args.p.features,
                  there ? 16 : 0);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        target[i] = row.out_row >= 0 && k + i < inputs ? *feature_at(args, row, head, first + k + i) : 0.0f;
      }
    }
  }
  // The stage of weight is one run of memory.
  const T* const from =
      static_cast<const T*>(args.p.weight) + (static_cast<int64_t>(head) * args.inputs + first) * gate_dim;
  const int elements = inputs * gate_dim;
  for (int at = thread_index() * 8; at < kDepth * gate_dim; at += Tile::kThreads * 8) {
    const int there = elements - at < 0 ? 0 : elements - at < 8 ? elements - at : 8;
    if (args.weight_vectors != 0) {
      cp_async_16(shared_address(to.weight + at), from + (there > 0 ? at : 0), there * static_cast<int>(sizeof(T)));
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) to.weight[at + i] = i < there ? from[at + i] : T{0};
    }
  }
}

template <class T, int kGate, int kThreadRows>
__global__ void __launch_bounds__(ProjectTile<T, kGate, kThreadRows>::kThreads,
                                  ProjectTile<T, kGate, kThreadRows>::kBlocks)
    gate_project_kernel(const __grid_constant__ ProjectArgs args) {
  using Tile = ProjectTile<T, kGate, kThreadRows>;
  auto& smem = shared<typename Tile::Shared>();
  const int gate_dim = args.p.gate_dim;
  // Tiles of one head follow each other: its weight stays in the L2 cache.
  const int head = block_index() / args.tiles;
  const int tile = block_index() % args.tiles;
  const int thread = thread_index();

  if (thread < kWarpThreads) {
    GateVectorRow row = {};
    row.out_row = -1;
    if (thread < Tile::kRows) {
      row = gate_vector_row(args.p, static_cast<int64_t>(tile) * Tile::kRows + thread, args.max_rows);
      smem.rows[thread] = row;
    }
    const uint32_t present = ballot(row.out_row >= 0);
    if (thread == 0) smem.present = present != 0 ? 1 : 0;
  }
  sync_threads();
  if (smem.present == 0) return;

  const int row_group = thread / Tile::kColumnGroups;
  const int column = thread % Tile::kColumnGroups * 2;  // and the next one, and both plus kGate / 2
  float sums[kThreadRows][4];
#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
#pragma unroll
    for (int c = 0; c < 4; ++c) sums[r][c] = 0.0f;
  }

#pragma unroll
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) {
    if (stage * kDepth < args.inputs) load_stage<T, kGate, kThreadRows>(args, smem, stage, head, stage * kDepth);
    cp_async_commit();
  }
  int stage = 0;
  for (int first = 0; first < args.inputs; first += kDepth) {
    cp_async_wait<Tile::kStages - 2>();
    sync_threads();  // the stage is there, and the one before it has been read
    const int next = first + (Tile::kStages - 1) * kDepth;
    const int next_stage = stage == 0 ? Tile::kStages - 1 : stage - 1;
    if (next < args.inputs) load_stage<T, kGate, kThreadRows>(args, smem, next_stage, head, next);
    cp_async_commit();

    const float* const features = smem.stages[stage].features + row_group * kThreadRows * kFeatureStride;
    const T* const weight = smem.stages[stage].weight + column;
#pragma unroll
    for (int k = 0; k < kDepth; k += 4) {
      FourFloats x[kThreadRows];
#pragma unroll
      for (int r = 0; r < kThreadRows; ++r) {
        x[r] = *reinterpret_cast<const FourFloats*>(features + r * kFeatureStride + k);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Pair<T> low = *reinterpret_cast<const Pair<T>*>(weight + (k + i) * gate_dim);
        const Pair<T> high = *reinterpret_cast<const Pair<T>*>(weight + (k + i) * gate_dim + kGate / 2);
        const float w[4] = {to_float(low.x[0]), to_float(low.x[1]), to_float(high.x[0]), to_float(high.x[1])};
#pragma unroll
        for (int r = 0; r < kThreadRows; ++r) {
#pragma unroll
          for (int c = 0; c < 4; ++c) sums[r][c] += x[r].x[i] * w[c];
        }
      }
    }
    stage = stage + 1 < Tile::kStages ? stage + 1 : 0;
  }
  cp_async_wait<0>();
  sync_threads();  // the stages make room for the vectors

#pragma unroll
  for (int r = 0; r < kThreadRows; ++r) {
    float* const vector = smem.vectors + (row_group * kThreadRows + r) * gate_dim;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int k = column + c % 2 + c / 2 * (kGate / 2);
      if (k < gate_dim) vector[k] = sums[r][c];
    }
  }
  sync_threads();
  for (int r = thread / kWarpThreads; r < Tile::kRows; r += Tile::kThreads / kWarpThreads) {
    if (smem.rows[r].out_row < 0) continue;
    const float* const vector = smem.vectors + r * gate_dim;
    write_gate_vector(args.p, smem.rows[r], head, [vector](int k) { return vector[k]; });
  }
}

constexpr int kCopyWarps = 4;

// The features are the vectors: a warp a row of a head.
__global__ void __launch_bounds__(kCopyWarps* kWarpThreads) gate_copy_kernel(const __grid_constant__ ProjectArgs args) {
  const int64_t index = static_cast<int64_t>(block_index()) * kCopyWarps + thread_index() / kWarpThreads;
  const int head = static_cast<int>(index % args.p.heads);
  const GateVectorRow row = gate_vector_row(args.p, index / args.p.heads, args.max_rows);
  if (row.out_row < 0) return;
  write_gate_vector(args.p, row, head, [&args, &row, head](int k) { return *feature_at(args, row, head, k); });
}

template <class T, int kGate, int kThreadRows>
int32_t launch_tiles(ProjectArgs& args, int64_t rows, void* stream) {
  using Tile = ProjectTile<T, kGate, kThreadRows>;
  const int64_t tiles = (rows + Tile::kRows - 1) / Tile::kRows;
  args.tiles = static_cast<int32_t>(tiles < 0x7fffffff ? tiles : 0x7fffffff);
  return launch<gate_project_kernel<T, kGate, kThreadRows>>(
      "gate_project", grid_product(tiles, args.p.heads), Tile::kThreads, sizeof(typename Tile::Shared), stream, args);
}

template <class T, int kGate>
int32_t launch_gate(ProjectArgs& args, int64_t rows, void* stream) {
  // Up to so many rows, tiles of 32 would leave most of the device idle.
  constexpr int kFewRows = 64;
  return rows <= kFewRows ? launch_tiles<T, kGate, 1>(args, rows, stream)
                          : launch_tiles<T, kGate, 8>(args, rows, stream);
}

template <class T>
int32_t launch_project(ProjectArgs& args, int64_t rows, void* stream) {
  if (args.p.gate_dim <= 64) return launch_gate<T, 64>(args, rows, stream);
  if (args.p.gate_dim <= 128) return launch_gate<T, 128>(args, rows, stream);
  return launch_gate<T, 256>(args, rows, stream);
}

}  // namespace

int32_t gate_project(const lacuna_gate_project_params* params, void* stream) {
  LACUNA_REQUIRE(params != nullptr, "gate_project: null argument");
  const lacuna_gate_project_params& p = *params;
  LACUNA_CHECK(check_gate_span(p.span));
  LACUNA_CHECK(check_gate_dim(p.gate_dim));
  LACUNA_REQUIRE(p.join == 0 || p.join == 1, "join must be 0 or 1, got %d", p.join);
  LACUNA_REQUIRE(p.in_heads >= 1 && p.in_heads <= kMaxPosition && p.heads >= 1 && p.heads <= kMaxPosition,
                 "in_heads and heads must be in 1..2^30, got %d and %d", p.in_heads, p.heads);
  LACUNA_REQUIRE(p.join == 1 ? p.in_heads % p.heads == 0 : p.heads % p.in_heads == 0,
                 "heads (%d) must be a %s of in_heads (%d)", p.heads, p.join == 1 ? "divisor" : "multiple", p.in_heads);
  LACUNA_REQUIRE(p.rows >= 0 && p.out_rows >= 0, "rows and out_rows must be >= 0, got %d and %d", p.rows, p.out_rows);
  LACUNA_REQUIRE(p.width >= 1 && p.width <= (1 << 20), "width must be in 1..=2^20, got %d", p.width);
  const int32_t joined = p.join == 1 ? p.in_heads / p.heads : 1;
  const int64_t inputs = static_cast<int64_t>(p.width) * joined;
  LACUNA_REQUIRE(inputs <= (1 << 22), "at most 2^22 inputs, got %lld", static_cast<long long>(inputs));
  LACUNA_REQUIRE(p.weight != nullptr || inputs == p.gate_dim,
                 "without weight the inputs are the gate vector: %lld inputs, gate_dim %d",
                 static_cast<long long>(inputs), p.gate_dim);
  LACUNA_REQUIRE(p.dtype == LACUNA_F16 || p.dtype == LACUNA_BF16, "dtype must be f16 (0) or bf16 (1), got %d", p.dtype);
  LACUNA_REQUIRE((p.rotate_last == 0 || p.rotate_last == 1) && (p.absolute == 0 || p.absolute == 1),
                 "rotate_last and absolute must be 0 or 1, got %d and %d", p.rotate_last, p.absolute);
  if (p.rope != nullptr) {
    LACUNA_REQUIRE(p.rope_rows >= 0 && p.rope_block >= 1 && p.rope_block <= kMaxPosition,
                   "rope_rows must be >= 0 and rope_block in 1..2^30, got %d and %d", p.rope_rows, p.rope_block);
    const bool at_starts = p.span.block % p.rope_block == 0 && (p.rotate_last == 0 || p.rope_block == 1);
    LACUNA_REQUIRE(p.rope_offset != nullptr || at_starts,
                   "rows between multiples of rope_block (%d) need rope_offset, which is null", p.rope_block);
  }
  // Written so that NaN is refused.
  LACUNA_REQUIRE(p.norm == nullptr || p.norm_eps >= 0.0f, "norm_eps must be >= 0, got %g",
                 static_cast<double>(p.norm_eps));

  ProjectArgs args = {};
  args.p = p;
  args.inputs = static_cast<int32_t>(inputs);
  args.joined = joined;
  const int64_t touched = p.span.len == 0 ? 0 : span_max_rows(p.span);
  args.max_rows = static_cast<int32_t>(touched < p.rows ? touched : p.rows);
  if (args.max_rows == 0 || p.out_rows == 0) return LACUNA_OK;
  LACUNA_REQUIRE(p.features != nullptr && p.out != nullptr, "features or out is null");
  args.feature_vectors = allows_vectors(p.features, p.width * static_cast<int64_t>(sizeof(float)));
  args.weight_vectors = allows_vectors(p.weight, inputs * p.gate_dim * static_cast<int64_t>(sizeof(Half)));
  const int64_t rows = static_cast<int64_t>(p.span.batch) * args.max_rows;
  if (p.weight == nullptr) {
    const int64_t blocks = (grid_product(rows, p.heads) + kCopyWarps - 1) / kCopyWarps;
    return launch<gate_copy_kernel>("gate_copy", blocks, kCopyWarps * kWarpThreads, 0, stream, args);
  }
  return p.dtype == LACUNA_BF16 ? launch_project<BFloat16>(args, rows, stream)
                                : launch_project<Half>(args, rows, stream);
}

}  // namespace LACUNA_NS
