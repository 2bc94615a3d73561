// TMA stores: what they write, what they drop; and the way of the output rows (sm90/forward/write.h).
#include "checks/checks.h"
#include "checks/tensor.h"
#include "ptx/bulk.h"
#include "ptx/tma.h"
#include "sm90/forward/write.h"

namespace facts {

namespace {

constexpr int kThreads = 128;
constexpr int kMostRows = 64;
constexpr uint16_t kUntouched = 0xABAB;

struct StoreParams {
  TensorMap map;
  Coordinates to;
  int box_rows;
};

struct StoreShared {
  alignas(1024) uint16_t box[kMostRows * kBoxColumns];
};

// Element (row, column) of the box is 1 + row * 64 + column.
__global__ void __launch_bounds__(kThreads) store_kernel(const __grid_constant__ StoreParams p) {
  auto& smem = shared<StoreShared>();
  for (int i = thread_index(); i < p.box_rows * kBoxColumns; i += kThreads) {
    store_shared(smem.box + panel_offset(i / kBoxColumns, i % kBoxColumns, p.box_rows), static_cast<uint16_t>(i + 1));
  }
  fence_async_shared();
  sync_threads();
  if (thread_index() == 0) {
    tma_store_4d(p.map, shared_address(smem.box), p.to.at[0], p.to.at[1], p.to.at[2], p.to.at[3]);
    bulk_commit();
    // As the kernels end: the source has been read, the end of the kernel shows the result.
    bulk_wait_read<0>();
  }
}

void compare_tensor(Finding& finding, const char* what, const Coordinates& to, const std::vector<uint16_t>& got,
                    const std::vector<uint16_t>& expected) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == expected[i]) continue;
    finding.differs("%s at (%d, %d, %d, %d): element %zu of the tensor is 0x%04x, expected 0x%04x", what, to.at[0],
                    to.at[1], to.at[2], to.at[3], i, got[i], expected[i]);
    return;
  }
}

void check_clipping(Finding& finding) {
  constexpr Coordinates kPlaces[] = {
      {{0, 0, 0, 0}},   {{64, 16, 2, 1}}, {{0, 70, 1, 0}},  {{64, 79, 2, 1}}, {{0, 80, 0, 0}},
      {{0, -7, 1, 1}},  {{0, -15, 0, 1}}, {{0, -64, 0, 0}}, {{96, 8, 0, 1}},  {{-32, 8, 1, 1}},
      {{128, 0, 0, 0}}, {{0, 0, -1, 1}},  {{0, 0, 3, 0}},   {{0, 0, 0, -1}},  {{0, 0, 0, 2}},
  };
  for (const bool interleaved : {false, true}) {
    const Tensor tensor = {2, 3, 80, 128, interleaved};
    for (const int rows : {16, 64}) {
      for (const Coordinates& to : kPlaces) {
        const Buffer<uint16_t> contents(std::vector<uint16_t>(tensor.count(), kUntouched));
        StoreParams params = {};
        params.map = tensor.map(contents.data(), tensor.len, rows, true);
        params.to = to;
        params.box_rows = rows;
        run<store_kernel>("store", 1, kThreads, sizeof(StoreShared), params);
        std::vector<uint16_t> expected(tensor.count(), kUntouched);
        for (int i = 0; i < rows * kBoxColumns; ++i) {
          const int c0 = to.at[0] + i % kBoxColumns;
          const int c1 = to.at[1] + i / kBoxColumns;
          if (!tensor.inside(c0, c1, to.at[2], to.at[3], tensor.len)) continue;
          expected[tensor.place(c0, c1, to.at[2], to.at[3])] = static_cast<uint16_t>(i + 1);
        }
        compare_tensor(finding, rows == 16 ? "box of 16 rows" : "box of 64 rows", to, contents.values(), expected);
      }
    }
  }
}

template <class Traits>
struct OutputParams {
  sm90::ForwardArgs args;
  sm90::Work work;
  const float* values;  // [64][head_dim]
};

template <class Traits>
struct OutputShared {
  alignas(1024) typename Traits::Element q[Traits::kQueryTile];
};

// One warpgroup writes its accumulators as the forward kernel does.
template <class Traits>
__global__ void __launch_bounds__(kThreads) output_kernel(const __grid_constant__ OutputParams<Traits> p) {
  auto& smem = shared<OutputShared<Traits>>();
  constexpr int kDim = Traits::kHeadDim;
  const int thread = thread_index();
  float o[kDim / 2];
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) {
    o[i] = p.values[accumulator_row(thread, i) * kDim + accumulator_column(thread, i)];
  }
  sm90::write_tile<Traits>(p.args, p.work, smem.q, 0, shuffle(thread / 32, 0), thread % 32, o);
}

template <int kHeadDim, class T>
void check_output_of(Finding& finding) {
  using Traits = sm90::ForwardTraits<kHeadDim, T, sm90::KeyLoads::kBoxes, false>;
  const Tensor tensor = {2, 3, 50, kHeadDim, true};
  const Matrix values = integers(7, 64, kHeadDim, 256);
  const Buffer<float> device_values(floats(values));
  for (const int first_row : {-20, 0, 10, 49, 64}) {
    const Buffer<uint16_t> contents(std::vector<uint16_t>(tensor.count(), kUntouched));
    OutputParams<Traits> params = {};
    params.args.out = tensor.map(contents.data(), tensor.len, 16, IsBFloat16<T>::kValue);
    params.work.head[0] = 2;
    params.work.batch = 1;
    params.work.first_row[0] = first_row;
    params.values = device_values.data();
    run<output_kernel<Traits>>("output", 1, kThreads, sizeof(OutputShared<Traits>), params);
    std::vector<uint16_t> expected(tensor.count(), kUntouched);
    for (int row = 0; row < 64; ++row) {
      for (int column = 0; column < kHeadDim; ++column) {
        if (!tensor.inside(column, first_row + row, 2, 1, tensor.len)) continue;
        expected[tensor.place(column, first_row + row, 2, 1)] = integer_bits<T>(values.at(row, column));
      }
    }
    char what[64];
    snprintf(what, sizeof what, "rows of head dim %d, %s,", kHeadDim, type_name<T>());
    compare_tensor(finding, what, Coordinates{{0, first_row, 2, 1}}, contents.values(), expected);
  }
}

void check_output(Finding& finding) {
  check_output_of<64, BFloat16>(finding);
  check_output_of<64, Half>(finding);
  check_output_of<128, BFloat16>(finding);
  check_output_of<128, Half>(finding);
}

constexpr Fact kFacts[] = {
    {"tma_store_clips", "stores write what lies inside and drop the rest, over every edge and at negative coordinates",
     check_clipping},
    {"output_rows", "write_tile: accumulators through stmatrix, fence.proxy.async and a TMA store to the output rows",
     check_output},
};

}  // namespace

List<Fact> store_facts() { return list_of(kFacts); }

}  // namespace facts
