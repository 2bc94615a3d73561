// Rows of a box are packed in shared memory, dimension 0 fastest. The swizzle exchanges chunks of 16 bytes: it is a
// function of the shared address, not of the position in the box.
#include "simt/tensor_box.h"

#include <string.h>

#include "simt/error.h"

namespace lacuna_simt {

namespace {

constexpr uint64_t kMagic = 0x70616d726f736e74u;
constexpr uint32_t kElementBytes = 2;
constexpr uint32_t kChunkBytes = 16;
constexpr uint32_t kMostBytes = 1u << 30;  // boxes may be larger than any shared memory

uint32_t row_bytes(const TensorBox& box) { return (box.map.box_last[0] + 1u) * kElementBytes; }

uint64_t rows_of(const TensorBox& box) {
  uint64_t rows = 1;
  for (int i = 1; i < box.map.rank; ++i) rows *= box.map.box_last[i] + 1u;
  return rows;
}

// Bits 4 and up of an address are exchanged with as many bits from 7 up: 1, 2 or 3 of them.
uint32_t swizzled(uint32_t address, uint32_t bits) {
  const uint32_t turn = address >> 7 & ((1u << bits) - 1);
  return address ^ turn << 4;
}

// Elements [from, to) of the box that lie in the tensor, along one dimension; from >= to: none.
struct Clip {
  int64_t from;
  int64_t to;
};

Clip clip(const TensorBox& box, int dimension) {
  const int64_t at = box.at[dimension];
  const int64_t size = static_cast<int64_t>(box.map.last[dimension]) + 1;
  const int64_t whole = box.map.box_last[dimension] + 1;
  const int64_t left = size - at;
  return {at < 0 ? -at : 0, left < whole ? left : whole};
}

// Calls visit(offset, from, to, global) for each chunk of the box: it lies at byte `offset` of the box in shared
// memory, and its bytes [from, to) are in the tensor, at `global`.
template <class Visit>
void for_each_chunk(const TensorBox& box, uint32_t address, Visit visit) {
  const EncodedMap& map = box.map;
  const uint32_t bytes = row_bytes(box);
  const uint32_t rows = box_bytes(box) / bytes;
  const Clip inner = clip(box, 0);
  const int64_t from = inner.from * kElementBytes;
  const int64_t to = inner.to * kElementBytes;
  int64_t at[kMaxTensorRank] = {};
  for (uint32_t row = 0; row < rows; ++row) {
    bool inside = true;
    uint64_t start = map.base + static_cast<uint64_t>(int64_t{box.at[0]} * kElementBytes);
    for (int i = 1; i < map.rank; ++i) {
      const int64_t position = box.at[i] + at[i];
      inside &= position >= 0 && position <= static_cast<int64_t>(map.last[i]);
      start += static_cast<uint64_t>(position) * map.stride_bytes[i];
    }
    for (uint32_t column = 0; column < bytes; column += kChunkBytes) {
      const uint32_t offset = swizzled(address + row * bytes + column, map.swizzle) - address;
      const int64_t first = from - column > 0 ? from - column : 0;
      const int64_t end = to - column < kChunkBytes ? to - column : kChunkBytes;
      const bool any = inside && first < end;
      const uint32_t skip = any ? static_cast<uint32_t>(first) : 0;
      visit(offset, skip, any ? static_cast<uint32_t>(end) : 0,
            reinterpret_cast<unsigned char*>(start + column + skip));
    }
    for (int i = 1; i < map.rank && ++at[i] > map.box_last[i]; ++i) at[i] = 0;
  }
}

}  // namespace

static_assert(sizeof(EncodedMap) <= sizeof(TensorMap), "a tensor map holds it");
static_assert(static_cast<int>(Swizzle::kSwizzle32) == 1 && static_cast<int>(Swizzle::kSwizzle128) == 3,
              "the number of address bits");

TensorMap pack_tensor_map(const TensorMapSpec& spec) {
  EncodedMap encoded = {};
  encoded.magic = kMagic;
  encoded.base = reinterpret_cast<uint64_t>(spec.base);
  encoded.rank = static_cast<uint8_t>(spec.rank);
  encoded.swizzle = static_cast<uint8_t>(spec.swizzle);
  for (int i = 0; i < spec.rank; ++i) {
    encoded.stride_bytes[i] = i == 0 ? kElementBytes : spec.stride_bytes[i];
    encoded.last[i] = static_cast<uint32_t>(spec.dims[i] - 1);
    encoded.box_last[i] = static_cast<uint8_t>(spec.box[i] - 1);
  }
  TensorMap map = {};
  memcpy(&map, &encoded, sizeof encoded);
  return map;
}

TensorBox tensor_box(const TensorMap& map, const int32_t* at, int rank, const char* what, int line) {
  TensorBox box = {};
  memcpy(&box.map, &map, sizeof box.map);
  if (box.map.magic != kMagic) fail(line, "%s: the tensor map was never encoded, or was overwritten", what);
  if (box.map.rank != rank) {
    fail(line, "%s: the instruction has %d coordinates, the tensor map rank %d", what, rank, box.map.rank);
  }
  if (const uint32_t span = kChunkBytes << box.map.swizzle; row_bytes(box) % span != 0) {
    fail(line, "%s: a row of the box has %u bytes, the swizzle spans %u: shorter rows are not modelled", what,
         row_bytes(box), span);
  }
  memcpy(box.at, at, sizeof(int32_t) * static_cast<size_t>(rank));
  return box;
}

uint32_t box_bytes(const TensorBox& box) {
  const uint64_t bytes = rows_of(box) * row_bytes(box);
  return bytes < kMostBytes ? static_cast<uint32_t>(bytes) : kMostBytes;
}

uint32_t box_alignment(const TensorBox& box) { return 128u << box.map.swizzle; }

TensorSpan box_span(const TensorBox& box) {
  uint64_t first = box.map.base;
  uint64_t bytes = kElementBytes;
  for (int i = 0; i < box.map.rank; ++i) {
    const Clip inside = clip(box, i);
    if (inside.from >= inside.to) return {nullptr, 0};
    first += static_cast<uint64_t>(box.at[i] + inside.from) * box.map.stride_bytes[i];
    bytes += static_cast<uint64_t>(inside.to - inside.from - 1) * box.map.stride_bytes[i];
  }
  return {reinterpret_cast<const unsigned char*>(first), bytes};
}

uint32_t load_box(const TensorBox& box, unsigned char* shared, uint32_t address) {
  uint32_t moved = 0;
  for_each_chunk(box, address, [&](uint32_t offset, uint32_t from, uint32_t to, const unsigned char* global) {
    if (to - from < kChunkBytes) memset(shared + offset, 0, kChunkBytes);
    if (from < to) memcpy(shared + offset + from, global, to - from);
    moved += to - from;
  });
  return moved;
}

uint32_t store_box(const TensorBox& box, const unsigned char* shared, uint32_t address) {
  uint32_t moved = 0;
  for_each_chunk(box, address, [&](uint32_t offset, uint32_t from, uint32_t to, unsigned char* global) {
    if (from < to) memcpy(global, shared + offset + from, to - from);
    moved += to - from;
  });
  return moved;
}

void poison_box(const TensorBox& box, unsigned char* shared, uint32_t address) {
  for_each_chunk(box, address, [&](uint32_t offset, uint32_t, uint32_t, const unsigned char*) {
    memset(shared + offset, 0xFF, kChunkBytes);
  });
}

}  // namespace lacuna_simt
