// Matrix descriptors of wgmma: address, leading and stride offsets (14 bits each, in units of 16 bytes), a base offset
// and the swizzle. The swizzle exchanges chunks by address bits of the shared window, so it acts on final addresses.
#include "simt/wgmma_operand.h"

#include "simt/error.h"
#include "simt/memory.h"

namespace lacuna_simt {

namespace {

// Bits of a descriptor that belong to no field.
constexpr uint64_t kUnusedBits = 0x3ff1'c000'c000'c000u;

struct Layout {
  const char* operand;
  int line;
  uint32_t address;
  uint32_t leading;
  uint32_t stride;
  uint32_t span;  // bytes of a row of the swizzle's pattern
  uint32_t mask;  // of the address bits that change, bits 4 .. 6

  uint32_t swizzled(uint32_t at) const { return at ^ (at >> 3 & mask); }
};

Layout decode(uint64_t descriptor, const char* operand, int line) {
  const auto field = [descriptor](int bit, int bits) {
    return static_cast<uint32_t>(descriptor >> bit & ((uint64_t{1} << bits) - 1));
  };
  if ((descriptor & kUnusedBits) != 0) {
    fail(line, "wgmma: descriptor 0x%016llx of %s sets bits outside of its fields",
         static_cast<unsigned long long>(descriptor), operand);
  }
  if (field(49, 3) != 0)
    fail(line, "wgmma: descriptor of %s with base offset %u, supported is 0", operand, field(49, 3));
  const uint32_t swizzle = field(62, 2);
  if (swizzle == 0) fail(line, "wgmma: descriptor of %s without swizzle, supported are 128, 64 and 32 bytes", operand);
  const uint32_t span = 256u >> swizzle;
  const Layout layout{operand, line, field(0, 14) << 4, field(16, 14) << 4, field(32, 14) << 4, span, span - 16};
  if (layout.address % (8 * span) >= span) {
    fail(line, "wgmma: %s starts at shared address 0x%x, not in the first row of a pattern of %u bytes", operand,
         layout.address - kSharedBase, 8 * span);
  }
  return layout;
}

// `index`: of the row (A), the column or the k (B), for the message.
Chunk chunk_at(const Layout& layout, uint32_t address, const char* what, int index, uint32_t arena_bytes) {
  const uint32_t at = layout.swizzled(address);
  // Below the base the difference wraps to a large number.
  if (at - kSharedBase >= arena_bytes || arena_bytes - (at - kSharedBase) < 16) {
    fail(layout.line, "wgmma: %s %d of %s lies at %lld, outside the block's %u bytes of shared memory", what, index,
         layout.operand, static_cast<long long>(at) - kSharedBase, arena_bytes);
  }
  return static_cast<Chunk>((at - kSharedBase) >> 4);
}

}  // namespace

void k_major_chunks(uint64_t descriptor, int rows, const char* operand, Chunk* chunks, int line) {
  const Layout layout = decode(descriptor, operand, line);
  const uint32_t arena_bytes = current_fiber().block->arena_bytes;
  if (layout.address % layout.span + 2 * kWgmmaDepth > layout.span) {
    fail(line, "wgmma: %s: 16 values of k at byte %u of a span of %u", operand, layout.address % layout.span,
         layout.span);
  }
  for (int row = 0; row < rows; ++row) {
    const uint32_t r = static_cast<uint32_t>(row);
    const uint32_t at = layout.address + layout.stride * (r / 8) + layout.span * (r % 8);
    chunks[2 * row] = chunk_at(layout, at, "row", row, arena_bytes);
    chunks[2 * row + 1] = chunk_at(layout, at + 16, "row", row, arena_bytes);
  }
}

void mn_major_chunks(uint64_t descriptor, int columns, const char* operand, Chunk* chunks, int line) {
  const Layout layout = decode(descriptor, operand, line);
  const uint32_t arena_bytes = current_fiber().block->arena_bytes;
  if (layout.address % layout.span != 0) {
    fail(line, "wgmma: %s: MN-major from byte %u of a span of %u, supported is its start", operand,
         layout.address % layout.span, layout.span);
  }
  const uint32_t per_k = static_cast<uint32_t>(columns) / 8;
  const uint32_t per_span = layout.span / 16;
  for (int k = 0; k < kWgmmaDepth; ++k) {
    const uint32_t row = static_cast<uint32_t>(k);
    const uint32_t at = layout.address + layout.stride * (row / 8) + layout.span * (row % 8);
    for (uint32_t c = 0; c < per_k; ++c) {
      *chunks++ = chunk_at(layout, at + layout.leading * (c / per_span) + 16 * (c % per_span), "k", k, arena_bytes);
    }
  }
}

}  // namespace lacuna_simt
