// quick insurance version
#include "simt/bulk.h"
#include <string.h>
#include <vector>
#include "simt/error.h"
#include "simt/mbarrier.h"
#include "simt/memory.h"
#include "simt/module.h"
#include "simt/proxy.h"
#include "simt/tma.h"

namespace lacuna_simt {
struct Packed {
  uint64_t base;
  uint64_t dims[5];
  uint64_t stride[5];
  uint8_t box[5];
  uint8_t rank;
  uint8_t swizzle;
  uint8_t pad;
};
static_assert(sizeof(Packed) <= 128);
TensorMap pack_tensor_map(const TensorMapSpec& s) {
  Packed p = {};
  p.base = reinterpret_cast<uint64_t>(s.base);
  for (int i = 0; i < s.rank; ++i) {
    p.dims[i] = s.dims[i];
    p.stride[i] = i ? s.stride_bytes[i] : 2;
    p.box[i] = (uint8_t)(s.box[i] - 1);
  }
  p.rank = (uint8_t)s.rank;
  p.swizzle = (uint8_t)s.swizzle;
  TensorMap m = {};
  memcpy(&m, &p, sizeof p);
  return m;
}
struct Op {
  bool load;
  Packed map;
  int32_t at[5];
  uint32_t smem;
  uint32_t barrier;
  Fiber* issuer;
  uint32_t group;
  int line;
};
struct BulkState {
  std::vector<Op> ops;
  std::vector<uint32_t> committed;
  struct Wait {
    Fiber* f;
    uint32_t upto;
  };
  std::vector<Wait> waits;
};
namespace {
uint32_t box_bytes(const Packed& m) {
  uint32_t n = 2;
  for (int i = 0; i < m.rank; ++i) n *= m.box[i] + 1u;
  return n;
}
void perform(Block& block, const Op& op) {
  const Packed& m = op.map;
  Worker& w = *block.worker;
  const uint32_t row_elems = m.box[0] + 1u;
  const uint32_t rows = box_bytes(m) / 2 / row_elems;
  for (uint32_t r = 0; r < rows; ++r) {
    uint32_t rest = r;
    bool in = true;
    uint64_t addr = m.base;
    for (int i = 1; i < m.rank; ++i) {
      int64_t c = op.at[i] + (int64_t)(rest % (m.box[i] + 1u));
      rest /= m.box[i] + 1u;
      if (c < 0 || c >= (int64_t)m.dims[i]) in = false;
      addr += (uint64_t)c * m.stride[i];
    }
    for (uint32_t chunk = 0; chunk < row_elems / 8; ++chunk) {
      uint32_t a = op.smem + (r * row_elems + chunk * 8) * 2;
      if (m.swizzle == 3) a ^= ((a >> 7) & 7) << 4;
      unsigned char* sp = block.arena + (a - kSharedBase);
      for (int e = 0; e < 8; ++e) {
        int64_t c = op.at[0] + (int64_t)(chunk * 8 + e);
        bool here = in && c >= 0 && c < (int64_t)m.dims[0];
        unsigned char* gp = reinterpret_cast<unsigned char*>(addr + (uint64_t)c * 2);
        if (op.load) {
          if (here)
            memcpy(sp + 2 * e, gp, 2);
          else
            memset(sp + 2 * e, 0, 2);
        } else if (here)
          memcpy(gp, sp + 2 * e, 2);
        if (here) w.counters.copy_bytes += 2;
      }
    }
  }
  if (op.load) mbarrier_complete(block, op.barrier, box_bytes(m), op.line);
}
void drop_waits(Block& block) {
  BulkState& s = *block.bulk;
  for (size_t i = 0; i < s.waits.size();) {
    bool busy = false;
    for (const Op& op : s.ops) busy |= !op.load && op.issuer == s.waits[i].f && op.group < s.waits[i].upto;
    if (busy) {
      ++i;
      continue;
    }
    make_ready(*s.waits[i].f);
    s.waits.erase(s.waits.begin() + (long)i);
  }
}
bool is_wanted(const Block& b, const Op& op) {
  if (op.load) return mbarrier_is_awaited(b, op.barrier);
  for (const auto& w : b.bulk->waits)
    if (w.f == op.issuer && op.group < w.upto) return true;
  return false;
}
void finish_at(Block& b, size_t i) {
  Op op = b.bulk->ops[i];
  b.bulk->ops.erase(b.bulk->ops.begin() + (long)i);
  perform(b, op);
  drop_waits(b);
}
size_t wanted(const Block& b) {
  size_t n = 0;
  for (const Op& op : b.bulk->ops) n += is_wanted(b, op);
  return n;
}
void finish_wanted(Block& b, uint32_t index) {
  for (size_t i = 0; i < b.bulk->ops.size(); ++i)
    if (is_wanted(b, b.bulk->ops[i]) && index-- == 0) {
      finish_at(b, i);
      return;
    }
}
void issue(Op op) {
  Fiber& self = current_fiber();
  op.issuer = &self;
  Block& b = *self.block;
  if ((int)b.bulk->committed.size() < b.threads) b.bulk->committed.resize((size_t)b.threads);
  op.group = b.bulk->committed[(size_t)self.thread];
  if (b.worker->config.async_mode == LACUNA_SIMT_EARLY) {
    perform(b, op);
    return;
  }
  if (op.load && b.worker->config.checks) memset(b.arena + (op.smem - kSharedBase), 0xFF, box_bytes(op.map));
  b.bulk->ops.push_back(op);
}
}  // namespace
void tensor_load(uint32_t destination, const TensorMap& map, uint32_t barrier, const int32_t* at, int rank, int line) {
  Op op = {};
  op.load = true;
  memcpy(&op.map, &map, sizeof op.map);
  memcpy(op.at, at, 4 * (size_t)rank);
  op.smem = destination;
  op.barrier = barrier;
  op.line = line;
  shared_pointer(destination, box_bytes(op.map), 1024, "tma load", line);
  mbarrier_check(barrier, "tma load", line);
  issue(op);
  scheduling_point();
}
void tensor_store(const TensorMap& map, uint32_t source, const int32_t* at, int rank, int line) {
  Op op = {};
  memcpy(&op.map, &map, sizeof op.map);
  memcpy(op.at, at, 4 * (size_t)rank);
  op.smem = source;
  op.line = line;
  shared_pointer(source, box_bytes(op.map), 1024, "tma store", line);
  issue(op);
}
void bulk_copy_in(uint32_t, const void*, int, uint32_t, int line) { fail(line, "bulk: not built yet"); }
void bulk_copy_out(void*, uint32_t, int, int line) { fail(line, "bulk: not built yet"); }
void bulk_reduce_f32(float*, uint32_t, int, int line) { fail(line, "bulk: not built yet"); }
void bulk_close_group() {
  Fiber& f = current_fiber();
  BulkState& s = *f.block->bulk;
  if ((int)s.committed.size() < f.block->threads) s.committed.resize((size_t)f.block->threads);
  ++s.committed[(size_t)f.thread];
}
void bulk_await(int pending, bool, int line) {
  Fiber& f = current_fiber();
  BulkState& s = *f.block->bulk;
  uint32_t c = s.committed.empty() ? 0 : s.committed[(size_t)f.thread];
  uint32_t upto = c > (uint32_t)pending ? c - (uint32_t)pending : 0;
  bool busy = false;
  for (const Op& op : s.ops) busy |= !op.load && op.issuer == &f && op.group < upto;
  if (!busy) return;
  s.waits.push_back({&f, upto});
  block_fiber("bulk wait", line);
}
const Module bulk_module = {[](Block& b) { b.bulk = new BulkState; },
                            [](Block& b) {
                              b.bulk->ops.clear();
                              b.bulk->waits.clear();
                              b.bulk->committed.assign((size_t)b.threads, 0);
                            },
                            nullptr,
                            nullptr,
                            wanted,
                            finish_wanted,
                            [](const Block& b) { return b.bulk->ops.size(); },
                            [](Block& b, Random& r) { finish_at(b, r.below((uint32_t)b.bulk->ops.size())); },
                            nullptr};
}  // namespace lacuna_simt
