// A tile that TMA wrote, as ldmatrix and wgmma read it: one swizzle function for all, boxes of 64 rows that make a tile
// of 128, several boxes on one barrier.
#include "checks/checks.h"
#include "checks/tensor.h"
#include "common/swizzle.h"
#include "ptx/ldmatrix.h"
#include "ptx/tma.h"
#include "sm90/forward/attend.h"

namespace facts {

namespace {

using sm90::kBoxKeys;
using sm90::kPanelElements;
using sm90::kTileKeys;
using sm90::kTileRows;

constexpr int kBoxBytes = kBoxKeys * kPanelElements * 2;
constexpr int kLoads = 16;  // of 16 x 16 elements: four rows and four columns of them in a tile of 64 x 64

struct FragmentParams {
  TensorMap map;
  uint32_t* out;  // [2][kLoads][32][4]: plain, then transposed
};

struct FragmentShared {
  alignas(1024) uint16_t tile[kBoxKeys * kPanelElements];
  Mbarrier full;
};

__global__ void __launch_bounds__(32) fragment_kernel(const __grid_constant__ FragmentParams p) {
  auto& smem = shared<FragmentShared>();
  const int lane = thread_index();
  if (lane == 0) {
    mbarrier_init(smem.full, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(smem.full, kBoxBytes);
    tma_load_4d(shared_address(smem.tile), p.map, smem.full, 0, 0, 0, 0, kEvictNormal);
  }
  sync_warp();
  mbarrier_wait(smem.full, 0);
  for (int load = 0; load < kLoads; ++load) {
    const int row = load / 4 * 16 + lane % 16;
    const int chunk = load % 4 * 2 + lane / 16;
    const uint32_t address[1] = {shared_address(smem.tile + swizzled<kPanelElements>(row, chunk))};
    uint32_t plain[1][4];
    uint32_t transposed[1][4];
    ldmatrix_x4<false>(plain, address);
    ldmatrix_x4<true>(transposed, address);
    for (int i = 0; i < 4; ++i) {
      p.out[(load * 32 + lane) * 4 + i] = plain[0][i];
      p.out[((kLoads + load) * 32 + lane) * 4 + i] = transposed[0][i];
    }
  }
}

void check_fragments(Finding& finding) {
  const Tensor tensor = {1, 1, 64, 64, false};
  const Buffer<uint16_t> contents(tensor.contents());
  const Buffer<uint32_t> out(2 * kLoads * 32 * 4);
  FragmentParams params = {};
  params.map = tensor.map(contents.data(), tensor.len, kBoxKeys, true);
  params.out = out.data();
  run<fragment_kernel>("fragments", 1, 32, sizeof(FragmentShared), params);
  const std::vector<uint32_t> got = out.values();
  for (int at = 0; at < 2 * kLoads * 32 * 4; ++at) {
    const int i = at % 4;  // matrix: rows 0 to 7 or 8 to 15, columns 0 to 7 or 8 to 15
    const int lane = at / 4 % 32;
    const int load = at / 128 % kLoads;
    const bool transposed = at / 128 >= kLoads;
    const int row = load / 4 * 16 + i % 2 * 8 + (transposed ? 2 * (lane % 4) : lane / 4);
    const int column = load % 4 * 16 + i / 2 * 8 + (transposed ? lane / 4 : 2 * (lane % 4));
    const auto element = [&](int r, int c) { return static_cast<uint32_t>(tensor.place(c, r, 0, 0) + 1); };
    const uint32_t second = transposed ? element(row + 1, column) : element(row, column + 1);
    const uint32_t expected = element(row, column) | second << 16;
    if (got[static_cast<size_t>(at)] == expected) continue;
    finding.differs("%s load %d, lane %d, register %d is 0x%08x, expected 0x%08x", transposed ? "transposed" : "plain",
                    load, lane, i, got[static_cast<size_t>(at)], expected);
    return;
  }
}

// Where the two boxes of the key tile start, not in order and not next to each other.
constexpr int kFirstBox = 131;
constexpr int kSecondBox = 17;
constexpr int kFirstQueries = 64;
constexpr int kSecondQueries = 5;
constexpr int kThreads = sm90::kConsumers * sm90::kWarpgroupThreads;

struct TileParams {
  TensorMap q;
  TensorMap k;
  TensorMap v;
  float* scores;  // [256][64]
  float* out;     // [256][head_dim / 2]
};

template <class Traits>
struct TileShared {
  using T = typename Traits::Element;
  alignas(1024) T q[Traits::kQueryTile];
  alignas(1024) T k[Traits::kKeyTile];
  alignas(1024) T v[Traits::kKeyTile];
  Mbarrier q_full;
  Mbarrier k_full;
  Mbarrier v_full;
};

template <class Traits>
__device__ __forceinline__ void load_boxes(uint32_t to, const TensorMap& map, Mbarrier& full, int first, int second,
                                           uint64_t policy) {
  mbarrier_arrive_expect(full, kTileRows * Traits::kHeadDim * 2);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    for (int panel = 0; panel < Traits::kPanels; ++panel) {
      tma_load_4d(to + panel * Traits::kPanelBytes + i * kBoxBytes, map, full, panel * kPanelElements,
                  i == 0 ? first : second, 1, 0, policy);
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(kThreads) tile_kernel(const __grid_constant__ TileParams p) {
  using T = typename Traits::Element;
  auto& smem = shared<TileShared<Traits>>();
  const int thread = thread_index();
  const int warpgroup = shuffle(thread / 128, 0);
  if (thread == 0) {
    mbarrier_init(smem.q_full, 1);
    mbarrier_init(smem.k_full, 1);
    mbarrier_init(smem.v_full, 1);
    fence_mbarrier_init();
  }
  sync_threads();
  if (thread == 0) {
    load_boxes<Traits>(shared_address(smem.q), p.q, smem.q_full, kFirstQueries, kSecondQueries, kEvictFirst);
    load_boxes<Traits>(shared_address(smem.k), p.k, smem.k_full, kFirstBox, kSecondBox, kEvictLast);
    load_boxes<Traits>(shared_address(smem.v), p.v, smem.v_full, kFirstBox, kSecondBox, kEvictLast);
  }
  sync_warp();
  mbarrier_wait(smem.q_full, 0);
  mbarrier_wait(smem.k_full, 0);
  float s[kTileKeys / 2];
  sm90::query_key<Traits, kTileKeys>(s, shared_address(smem.q) + warpgroup * kBoxBytes, shared_address(smem.k));
  wgmma_wait<0>();
  wgmma_registers(s);
#pragma unroll
  for (int i = 0; i < kTileKeys / 2; ++i) p.scores[thread * (kTileKeys / 2) + i] = s[i];
  uint32_t packed[kTileKeys / 16][4];
  sm90::pack_probabilities<T>(s, packed);
  float o[Traits::kHeadDim / 2];
#pragma unroll
  for (int i = 0; i < Traits::kHeadDim / 2; ++i) o[i] = 0.0f;
  mbarrier_wait(smem.v_full, 0);
  sm90::probability_value<Traits, kTileKeys>(o, packed, shared_address(smem.v));
  wgmma_wait<0>();
  wgmma_registers(o);
#pragma unroll
  for (int i = 0; i < Traits::kHeadDim / 2; ++i) p.out[thread * (Traits::kHeadDim / 2) + i] = o[i];
}

// Rows of head 1 of the tensor that two boxes of 64 bring; rows behind the end are zeros.
Matrix boxes_of(const Matrix& head, int first, int second) {
  Matrix tile(2 * kBoxKeys, head.columns);
  for (int row = 0; row < tile.rows; ++row) {
    const int from = row < kBoxKeys ? first + row : second + row - kBoxKeys;
    for (int column = 0; from < head.rows && column < head.columns; ++column) {
      tile.at(row, column) = head.at(from, column);
    }
  }
  return tile;
}

template <int kHeadDim, class T>
void check_tile_of(Finding& finding) {
  using Traits = sm90::ForwardTraits<kHeadDim, T, sm90::KeyLoads::kBoxes, false>;
  // The first box of keys ends behind the sequence.
  const Tensor tensor = {1, 2, 150, kHeadDim, false};
  // [heads * len][head_dim]; scores stay below 256, so that P is exact in bf16.
  const Matrix q = integers(1, 2 * tensor.len, kHeadDim, 1);
  const Matrix k = integers(2, 2 * tensor.len, kHeadDim, 2);
  const Matrix v = integers(3, 2 * tensor.len, kHeadDim, 3);
  const Buffer<T> device_q(elements<T>(q));
  const Buffer<T> device_k(elements<T>(k));
  const Buffer<T> device_v(elements<T>(v));
  const Buffer<float> scores(size_t{kThreads} * kTileKeys / 2);
  const Buffer<float> out(size_t{kThreads} * kHeadDim / 2);
  const bool bfloat16 = IsBFloat16<T>::kValue;
  TileParams params = {};
  params.q = tensor.map(device_q.data(), tensor.len, sm90::kWarpgroupRows, bfloat16);
  params.k = tensor.map(device_k.data(), tensor.len, kBoxKeys, bfloat16);
  params.v = tensor.map(device_v.data(), tensor.len, kBoxKeys, bfloat16);
  params.scores = scores.data();
  params.out = out.data();
  run<tile_kernel<Traits>>("tile", 1, kThreads, sizeof(TileShared<Traits>), params);
  const auto head = [&](const Matrix& all) {
    Matrix one(tensor.len, kHeadDim);
    for (size_t i = 0; i < one.values.size(); ++i) one.values[i] = all.values[one.values.size() + i];
    return one;
  };
  const Matrix queries = boxes_of(head(q), kFirstQueries, kSecondQueries);
  const Matrix product = product_transposed(queries, boxes_of(head(k), kFirstBox, kSecondBox));
  char what[64];
  snprintf(what, sizeof what, "Q K^T, head dim %d, %s", kHeadDim, type_name<T>());
  compare_accumulators(finding, what, scores.values(), kThreads, product);
  snprintf(what, sizeof what, "(Q K^T) V, head dim %d, %s", kHeadDim, type_name<T>());
  const Matrix values = boxes_of(head(v), kFirstBox, kSecondBox);
  compare_accumulators(finding, what, out.values(), kThreads,
                       product_plus(Matrix(kTileRows, kHeadDim), product, values));
}

void check_tile(Finding& finding) {
  check_tile_of<64, BFloat16>(finding);
  check_tile_of<64, Half>(finding);
  check_tile_of<128, BFloat16>(finding);
  check_tile_of<128, Half>(finding);
}

constexpr Fact kFacts[] = {
    {"ldmatrix_of_tma_tile", "ldmatrix, plain and transposed, of a tile that TMA wrote, through common/swizzle.h",
     check_fragments},
    {"wgmma_of_tma_boxes",
     "two boxes of 64 rows, 8192 bytes apart in each panel, are one operand of 128 rows for both "
     "products; all boxes of an operand on one barrier",
     check_tile},
};

}  // namespace

List<Fact> tile_facts() { return list_of(kFacts); }

}  // namespace facts
