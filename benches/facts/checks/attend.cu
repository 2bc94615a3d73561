// The products of the forward kernel, by its own functions (sm90/forward/attend.h): Q K^T and P V of a whole key tile
// and of a box of it, with P packed from accumulators.
#include "checks/checks.h"
#include "harness/machine.h"
#include "harness/tile.h"
#include "sm90/forward/attend.h"

namespace facts {

namespace {

using sm90::kTileKeys;
using sm90::kTileRows;

constexpr int kThreads = sm90::kConsumers * sm90::kWarpgroupThreads;
constexpr int kBoxBytes = sm90::kBoxKeys * sm90::kPanelElements * 2;

template <class T>
struct AttendParams {
  const T* q;                // [128][head_dim]
  const T* k;                // [128][head_dim]
  const T* v;                // [128][head_dim]
  const float* probability;  // [128][keys]
  const float* start;        // [128][head_dim]
  float* scores;             // [256][keys / 2], as the threads hold them
  float* out;                // [256][head_dim / 2]
  int box;                   // the first of the keys is 64 * box
};

template <class Traits>
struct AttendShared {
  using T = typename Traits::Element;
  alignas(1024) T q[Traits::kQueryTile];
  alignas(1024) T k[Traits::kKeyTile];
  alignas(1024) T v[Traits::kKeyTile];
};

template <class Traits, int kKeys>
__global__ void __launch_bounds__(kThreads) attend_kernel(const AttendParams<typename Traits::Element> p) {
  using T = typename Traits::Element;
  constexpr int kDim = Traits::kHeadDim;
  auto& smem = shared<AttendShared<Traits>>();
  const int thread = thread_index();
  const int warpgroup = shuffle(thread / 128, 0);
  const int first_row = 64 * warpgroup;
  lay_out(p.q, kTileRows, kDim, false, smem.q, kThreads);
  lay_out(p.k, kTileKeys, kDim, false, smem.k, kThreads);
  lay_out(p.v, kTileKeys, kDim, false, smem.v, kThreads);
  sync_threads();
  const uint32_t box = static_cast<uint32_t>(p.box) * kBoxBytes;
  float s[kKeys / 2];
  sm90::query_key<Traits, kKeys>(s, shared_address(smem.q) + warpgroup * kBoxBytes, shared_address(smem.k) + box);
  wgmma_wait<0>();
  wgmma_registers(s);
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) p.scores[thread * (kKeys / 2) + i] = s[i];
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
    s[i] = p.probability[(first_row + accumulator_row(thread % 128, i)) * kKeys + accumulator_column(thread % 128, i)];
  }
  uint32_t packed[kKeys / 16][4];
  sm90::pack_probabilities<T>(s, packed);
  float o[kDim / 2];
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) {
    o[i] = p.start[(first_row + accumulator_row(thread % 128, i)) * kDim + accumulator_column(thread % 128, i)];
  }
  sm90::probability_value<Traits, kKeys>(o, packed, shared_address(smem.v) + box);
  wgmma_wait<0>();
  wgmma_registers(o);
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) p.out[thread * (kDim / 2) + i] = o[i];
}

// Rows `first` to `first + count` - 1.
Matrix rows_of(const Matrix& from, int first, int count) {
  Matrix part(count, from.columns);
  for (int row = 0; row < count; ++row) {
    for (int column = 0; column < from.columns; ++column) part.at(row, column) = from.at(first + row, column);
  }
  return part;
}

template <int kHeadDim, class T, int kKeys>
void check_one(Finding& finding) {
  using Traits = sm90::ForwardTraits<kHeadDim, T, sm90::KeyLoads::kBoxes, false>;
  const Matrix q = integers(1, kTileRows, kHeadDim, 3);
  const Matrix k = integers(2, kTileKeys, kHeadDim, 3);
  const Matrix v = integers(3, kTileKeys, kHeadDim, 5);
  const Matrix probability = integers(4, kTileRows, kKeys, 5);
  const Matrix start = integers(5, kTileRows, kHeadDim, 100);
  const Buffer<T> device_q(elements<T>(q));
  const Buffer<T> device_k(elements<T>(k));
  const Buffer<T> device_v(elements<T>(v));
  const Buffer<float> device_probability(floats(probability));
  const Buffer<float> device_start(floats(start));
  for (int box = 0; box < kTileKeys / kKeys; ++box) {
    const Buffer<float> scores(size_t{kThreads} * kKeys / 2);
    const Buffer<float> out(size_t{kThreads} * kHeadDim / 2);
    const AttendParams<T> params = {device_q.data(),     device_k.data(), device_v.data(), device_probability.data(),
                                    device_start.data(), scores.data(),   out.data(),      box};
    run<attend_kernel<Traits, kKeys>>("attend", 1, kThreads, sizeof(AttendShared<Traits>), params);
    char what[96];
    snprintf(what, sizeof what, "Q K^T, head dim %d, %s, box %d", kHeadDim, type_name<T>(), box);
    const Matrix keys = rows_of(k, 64 * box, kKeys);
    compare_accumulators(finding, what, scores.values(), kThreads, product_transposed(q, keys));
    snprintf(what, sizeof what, "P V, head dim %d, %s, box %d", kHeadDim, type_name<T>(), box);
    const Matrix values = rows_of(v, 64 * box, kKeys);
    compare_accumulators(finding, what, out.values(), kThreads, product_plus(start, probability, values));
  }
}

template <int kKeys>
void check_all(Finding& finding) {
  check_one<64, BFloat16, kKeys>(finding);
  check_one<64, Half, kKeys>(finding);
  check_one<128, BFloat16, kKeys>(finding);
  check_one<128, Half, kKeys>(finding);
}

constexpr Fact kFacts[] = {
    {"attend_whole_tile", "query_key and probability_value over 128 keys, head dims 64 and 128, both warpgroups",
     check_all<kTileKeys>},
    {"attend_box", "the same over either box of 64 keys of a tile", check_all<sm90::kBoxKeys>},
};

}  // namespace

List<Fact> attend_facts() { return list_of(kFacts); }

}  // namespace facts
