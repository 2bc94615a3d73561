// The gather path: rows by cp.async into a swizzled tile (sm90/forward/gather.h), fence.proxy.async, an arrival of each
// writer, products by another warpgroup.
#include "checks/checks.h"
#include "harness/machine.h"
#include "harness/tile.h"
#include "sm90/forward/attend.h"
#include "sm90/forward/gather.h"

namespace facts {

namespace {

using sm90::kTileKeys;

constexpr int kThreads = 256;  // one warpgroup gathers, one multiplies
constexpr int kPieces = kTileKeys / sm90::kPieceKeys;
constexpr int kPages = 6;
constexpr int kPageRows = 32;
constexpr int kTiles = 3;

template <class T>
struct GatherParams {
  const T* q;     // [64][head_dim]
  const T* k;     // [pages][2 heads][32][head_dim]
  const T* v;     // as k
  float* scores;  // [tiles][128][64]
  float* out;     // [128][head_dim / 2] over all tiles
  sm90::GatherRows rows[kTiles];
};

template <class Traits>
struct GatherShared {
  using T = typename Traits::Element;
  alignas(1024) T q[64 * Traits::kHeadDim];
  alignas(1024) T k[Traits::kKeyTile];
  alignas(1024) T v[Traits::kKeyTile];
  Mbarrier full;
  Mbarrier empty;
};

template <class Traits>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ GatherParams<typename Traits::Element> p) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  constexpr int kPanelBytes = 64 * 128;  // of Q: 64 rows here
  auto& smem = shared<GatherShared<Traits>>();
  const int thread = thread_index();
  if (thread == 0) {
    mbarrier_init(smem.full, sm90::kWarpgroupThreads);
    mbarrier_init(smem.empty, 4);
    fence_mbarrier_init();
  }
  lay_out(p.q, 64, kDim, false, smem.q, kThreads);
  sync_threads();
  if (shuffle(thread / 128, 0) == 0) {
    const lacuna_strides stride = {2 * kPageRows * kDim, kPageRows * kDim, kDim};
    for (int tile = 0; tile < kTiles; ++tile) {
      mbarrier_wait(smem.empty, static_cast<uint32_t>(tile + 1) % 2);
      sm90::gather_tile<Traits>(p.rows[tile], smem.k, p.k, stride);
      sm90::gather_tile<Traits>(p.rows[tile], smem.v, p.v, stride);
      cp_async_wait<0>();
      sm90::publish(smem.full);
    }
    return;
  }
  float o[kDim / 2];
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) o[i] = 0.0f;
  for (int tile = 0; tile < kTiles; ++tile) {
    mbarrier_wait(smem.full, static_cast<uint32_t>(tile) % 2);
    float s[kTileKeys / 2];
    const uint64_t a = wgmma_descriptor(shared_address(smem.q), 16, 1024, Swizzle::kSwizzle128);
    const uint64_t b = wgmma_descriptor(shared_address(smem.k), 16, 1024, Swizzle::kSwizzle128);
    wgmma_registers(s);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      wgmma_ss<T, Major::kK>(s, advanced(a, step / 4 * kPanelBytes + step % 4 * 32),
                             advanced(b, step / 4 * Traits::kPanelBytes + step % 4 * 32), step > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_registers(s);
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) {
      p.scores[(tile * 128 + thread % 128) * (kTileKeys / 2) + i] = s[i];
    }
    uint32_t packed[kTileKeys / 16][4];
    sm90::pack_probabilities<T>(s, packed);
    sm90::probability_value<Traits, kTileKeys>(o, packed, shared_address(smem.v));
    wgmma_wait<0>();
    wgmma_registers(o);
    if (thread % 32 == 0) mbarrier_arrive(smem.empty);
  }
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) p.out[thread % 128 * (kDim / 2) + i] = o[i];
}

// Rows of head 1 as the pieces name them, zeros where they name none.
Matrix gathered(const Matrix& pages, const sm90::GatherRows& rows) {
  Matrix tile(kTileKeys, pages.columns);
  for (int row = 0; row < kTileKeys; ++row) {
    const int piece = row / sm90::kPieceKeys;
    const int within = row % sm90::kPieceKeys;
    if (within >= rows.count[piece]) continue;
    const int from = (rows.page[piece] * 2 + rows.kv_head) * kPageRows + rows.row[piece] + within;
    for (int column = 0; column < pages.columns; ++column) tile.at(row, column) = pages.at(from, column);
  }
  return tile;
}

template <int kHeadDim, class T>
void check_one(Finding& finding) {
  using Traits = sm90::ForwardTraits<kHeadDim, T, sm90::KeyLoads::kGathered, false>;
  const Matrix q = integers(1, 64, kHeadDim, 1);
  const Matrix k = integers(2, kPages * 2 * kPageRows, kHeadDim, 2);
  const Matrix v = integers(3, kPages * 2 * kPageRows, kHeadDim, 3);
  const Buffer<T> device_q(elements<T>(q));
  const Buffer<T> device_k(elements<T>(k));
  const Buffer<T> device_v(elements<T>(v));
  const Buffer<float> scores(size_t{kTiles} * 128 * kTileKeys / 2);
  const Buffer<float> out(size_t{128} * kHeadDim / 2);
  GatherParams<T> params = {};
  params.q = device_q.data();
  params.k = device_k.data();
  params.v = device_v.data();
  params.scores = scores.data();
  params.out = out.data();
  for (int tile = 0; tile < kTiles; ++tile) {
    sm90::GatherRows& rows = params.rows[tile];
    rows.kv_head = 1;
    for (int piece = 0; piece < kPieces; ++piece) {
      // Some pieces lie nowhere, the last one of a tile ends early.
      const bool nowhere = (piece + tile) % 5 == 3;
      rows.page[piece] = nowhere ? -1 : (piece * 7 + tile) % kPages;
      rows.row[piece] = nowhere ? 0 : piece % 2 * sm90::kPieceKeys;
      rows.count[piece] = nowhere ? 0 : piece == kPieces - 1 ? 5 + tile : sm90::kPieceKeys;
    }
  }
  run<gather_kernel<Traits>>("gather", 1, kThreads, sizeof(GatherShared<Traits>), params);
  const std::vector<float> all = scores.values();
  Matrix expected(64, kHeadDim);
  char what[64];
  for (int tile = 0; tile < kTiles; ++tile) {
    const Matrix product = product_transposed(q, gathered(k, params.rows[tile]));
    const auto first = all.begin() + tile * 128 * kTileKeys / 2;
    snprintf(what, sizeof what, "Q K^T of tile %d, head dim %d, %s", tile, kHeadDim, type_name<T>());
    compare_accumulators(finding, what, std::vector<float>(first, first + 128 * kTileKeys / 2), 128, product);
    expected = product_plus(expected, product, gathered(v, params.rows[tile]));
  }
  snprintf(what, sizeof what, "(Q K^T) V, head dim %d, %s", kHeadDim, type_name<T>());
  compare_accumulators(finding, what, out.values(), 128, expected);
}

void check_gather(Finding& finding) {
  check_one<64, BFloat16>(finding);
  check_one<64, Half>(finding);
  check_one<128, BFloat16>(finding);
  check_one<128, Half>(finding);
}

constexpr Fact kFacts[] = {
    {"gathered_tiles",
     "cp.async of rows and zeros, fence.proxy.async, 128 arrivals, then wgmma; tiles are refilled twice", check_gather},
};

}  // namespace

List<Fact> gather_facts() { return list_of(kFacts); }

}  // namespace facts
