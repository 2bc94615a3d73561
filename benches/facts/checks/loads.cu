// TMA loads of 4-D boxes: where each element arrives, what lies outside, how many bytes are reported.
#include "checks/checks.h"
#include "checks/tensor.h"
#include "ptx/tma.h"

namespace facts {

namespace {

constexpr int kThreads = 128;
constexpr int kMostRows = 128;
constexpr int kBoxElements = kMostRows * kBoxColumns;
constexpr int kBehind = 512;  // elements behind the largest box, to see what a load must not touch
constexpr uint16_t kUntouched = 0xABAB;

struct LoadParams {
  TensorMap map;
  uint16_t* out;  // [kBoxElements + kBehind]: shared memory as it is after the load
  uint64_t policy;
  Coordinates from;
  int box_rows;
};

struct LoadShared {
  alignas(1024) uint16_t box[kBoxElements + kBehind];
  Mbarrier full;
};

__global__ void __launch_bounds__(kThreads) load_kernel(const __grid_constant__ LoadParams p) {
  auto& smem = shared<LoadShared>();
  for (int i = thread_index(); i < kBoxElements + kBehind; i += kThreads) store_shared(smem.box + i, kUntouched);
  fence_async_shared();
  if (thread_index() == 0) {
    mbarrier_init(smem.full, 1);
    fence_mbarrier_init();
  }
  sync_threads();
  if (thread_index() == 0) {
    tma_prefetch_map(p.map);
    // The whole box, clipped or not: with any other number the wait would not end.
    mbarrier_arrive_expect(smem.full, p.box_rows * kBoxColumns * 2);
    tma_load_4d(shared_address(smem.box), p.map, smem.full, p.from.at[0], p.from.at[1], p.from.at[2], p.from.at[3],
                p.policy);
  }
  mbarrier_wait(smem.full, 0);
  for (int i = thread_index(); i < kBoxElements + kBehind; i += kThreads) p.out[i] = smem.box[i];
}

// Loads one box and compares all of shared memory.
void check_load(Finding& finding, const Tensor& tensor, const Buffer<uint16_t>& contents, int visible_len, int box_rows,
                const Coordinates& from, uint64_t policy, bool bfloat16) {
  const Buffer<uint16_t> out(kBoxElements + kBehind);
  LoadParams params = {};
  params.map = tensor.map(contents.data(), visible_len, box_rows, bfloat16);
  params.out = out.data();
  params.policy = policy;
  params.from = from;
  params.box_rows = box_rows;
  run<load_kernel>("load", 1, kThreads, sizeof(LoadShared), params);
  std::vector<uint16_t> expected(kBoxElements + kBehind, kUntouched);
  for (int row = 0; row < box_rows; ++row) {
    for (int column = 0; column < kBoxColumns; ++column) {
      const int c0 = from.at[0] + column;
      const int c1 = from.at[1] + row;
      const bool inside = tensor.inside(c0, c1, from.at[2], from.at[3], visible_len);
      expected[static_cast<size_t>(panel_offset(row, column, box_rows))] =
          inside ? static_cast<uint16_t>(tensor.place(c0, c1, from.at[2], from.at[3]) + 1) : uint16_t{0};
    }
  }
  const std::vector<uint16_t> got = out.values();
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == expected[i]) continue;
    finding.differs("box of %d rows at (%d, %d, %d, %d): element %zu of shared memory is 0x%04x, expected 0x%04x",
                    box_rows, from.at[0], from.at[1], from.at[2], from.at[3], i, got[i], expected[i]);
    return;
  }
}

// 128 columns, 80 rows, 3 heads, 2 sequences: 61440 elements.
constexpr Tensor kTensor = {2, 3, 80, 128, false};
constexpr Tensor kInterleaved = {2, 3, 80, 128, true};

void check_places(Finding& finding) {
  for (const Tensor& tensor : {kTensor, kInterleaved}) {
    const Buffer<uint16_t> contents(tensor.contents());
    for (const int rows : {8, 16, 64}) {
      for (const Coordinates& from : {Coordinates{{0, 0, 0, 0}}, {{64, 8, 2, 1}}, {{64, 3, 1, 0}}, {{8, 13, 0, 1}}}) {
        check_load(finding, tensor, contents, tensor.len, rows, from, kEvictNormal, rows == 8);
      }
    }
  }
}

void check_outside(Finding& finding) {
  constexpr Coordinates kPlaces[] = {
      {{0, 40, 1, 0}},      {{64, 79, 2, 1}},      {{0, 80, 0, 0}},  {{0, -7, 1, 1}},  {{64, -63, 0, 0}},
      {{0, -64, 0, 0}},     {{96, 8, 0, 1}},       {{-32, 8, 1, 1}}, {{128, 0, 0, 0}}, {{-64, 0, 0, 0}},
      {{0, 0, -1, 1}},      {{0, 0, 3, 0}},        {{0, 0, 0, -1}},  {{0, 0, 0, 2}},   {{120, -60, 2, 1}},
      {{0, 2000000, 1, 0}}, {{0, -2000000, 1, 0}},
  };
  for (const Tensor& tensor : {kTensor, kInterleaved}) {
    const Buffer<uint16_t> contents(tensor.contents());
    for (const int rows : {64, 128}) {
      for (const Coordinates& from : kPlaces) {
        check_load(finding, tensor, contents, tensor.len, rows, from, kEvictNormal, true);
      }
    }
  }
}

void check_second_map(Finding& finding) {
  const Buffer<uint16_t> contents(kTensor.contents());
  for (const int visible_len : {1, 37, 64, 79}) {
    for (const Coordinates& from : {Coordinates{{0, 0, 0, 0}}, {{64, 0, 2, 1}}, {{0, 32, 1, 1}}}) {
      check_load(finding, kTensor, contents, visible_len, 64, from, kEvictLast, true);
    }
  }
}

void check_policies(Finding& finding) {
  const Buffer<uint16_t> contents(kTensor.contents());
  for (const uint64_t policy : {kEvictNormal, kEvictFirst, kEvictLast}) {
    check_load(finding, kTensor, contents, kTensor.len, 64, Coordinates{{64, 16, 2, 1}}, policy, true);
  }
}

// Dimensions of one element, whose strides encode_heads replaces.
void check_single(Finding& finding) {
  for (const Tensor& tensor : {Tensor{1, 1, 1, 64, false}, Tensor{1, 1, 70, 64, false}, Tensor{1, 3, 1, 64, false},
                               Tensor{2, 1, 70, 128, true}, Tensor{3, 1, 1, 128, false}}) {
    const Buffer<uint16_t> contents(tensor.contents());
    for (const Coordinates& from : {Coordinates{{0, 0, 0, 0}}, {{0, -3, 0, 0}}, {{0, 0, 1, 0}}, {{0, 0, 0, 1}}}) {
      check_load(finding, tensor, contents, tensor.len, 64, from, kEvictNormal, true);
    }
  }
}

constexpr Fact kFacts[] = {
    {"tma_load_places", "4-D boxes of 64 columns: chunk c of row r arrives at c ^ (r & 7), for both orders of strides",
     check_places},
    {"tma_load_outside",
     "what lies outside loads as zeros, over every edge and at negative coordinates, and counts "
     "among the reported bytes",
     check_outside},
    {"tma_load_second_map", "a second map of the same tensor, cut at a tail, loads zeros behind it", check_second_map},
    {"tma_load_policies", "the L2 policies of ptx/tma.h are accepted", check_policies},
    {"tma_load_single", "dimensions of one element with a stride of 16 bytes are encoded and loaded", check_single},
};

}  // namespace

List<Fact> load_facts() { return list_of(kFacts); }

}  // namespace facts
