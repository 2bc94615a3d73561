// The backward family: checks a request, says what serves it, and starts its steps.
#include <cstdio>

#include "common/alignment.h"
#include "common/backward_steps.h"
#include "common/validate.h"
#include "families.h"
#include "sm80/backward/launch.h"
#include "sm80/backward/tile_table.h"

namespace LACUNA_NS {

namespace {

template <int kHeadDim>
void describe(lacuna_backward_config* config) {
  using Query = sm80::QueryGradTraits<kHeadDim, BFloat16>;
  using Key = sm80::KeyGradTraits<kHeadDim, BFloat16>;
  config->family = LACUNA_FAMILY_PORTABLE;
  config->tile_q = Query::kTileRows;
  config->tile_k = Key::kTileKeys;
  config->query_threads = Query::kThreads;
  config->query_smem_bytes = static_cast<int32_t>(sizeof(typename Query::Shared));
  config->key_threads = Key::kThreads;
  config->key_smem_bytes = static_cast<int32_t>(sizeof(typename Key::Shared));
}

int32_t describe_tiles(const lacuna_shape& shape, lacuna_backward_config* config) {
  switch (shape.head_dim) {
    case 32:
      describe<32>(config);
      break;
    case 64:
      describe<64>(config);
      break;
    case 96:
      describe<96>(config);
      break;
    case 128:
      describe<128>(config);
      break;
    case 256:
      describe<256>(config);
      break;
    default:
      return set_error(LACUNA_UNSUPPORTED, "head_dim %d: the backward kernels serve 32, 64, 96, 128 and 256",
                       shape.head_dim);
  }
  const char* dtype = shape.dtype == LACUNA_F16 ? "f16" : "bf16";
  snprintf(config->query_kernel, sizeof config->query_kernel, "sm80_backward_query_d%d_%s", shape.head_dim, dtype);
  snprintf(config->key_kernel, sizeof config->key_kernel, "sm80_backward_key_d%d_%s", shape.head_dim, dtype);
  return LACUNA_OK;
}

// Products that the kernels hold in 32 bits.
int32_t check_counts(const lacuna_shape& s, const lacuna_block_plan& p) {
  constexpr int64_t kMax = 0x7fffffff;
  LACUNA_REQUIRE(backward_columns(s) <= kMax, "batch * kv_heads * KV tiles of %d keys must be below 2^31", kColumnKeys);
  LACUNA_REQUIRE(static_cast<int64_t>(s.batch) * kMaxPieces <= kMax, "batch must be below 2^22, got %d", s.batch);
  const int64_t q_blocks = plan_query_blocks(p, s.q_len);
  LACUNA_REQUIRE(q_blocks * (s.q_heads / s.kv_heads) <= kMax,
                 "query blocks times the query heads of a KV head must be below 2^31, got %lld * %d",
                 static_cast<long long>(q_blocks), s.q_heads / s.kv_heads);
  if (p.kind != LACUNA_PLAN_LISTS) return LACUNA_OK;
  LACUNA_REQUIRE(q_blocks <= 1 << 24, "at most 2^24 query blocks, got %lld", static_cast<long long>(q_blocks));
  const int64_t heads = static_cast<int64_t>(p.plan_batch) * p.heads;
  const int64_t tiles = (static_cast<int64_t>(s.kv_len) + kColumnKeys - 1) / kColumnKeys;
  LACUNA_REQUIRE(heads <= kMax && heads * tiles < kMax, "plan_batch * heads * KV tiles must be below 2^31 - 1");
  return LACUNA_OK;
}

bool finite(float x) { return x - x == 0.0f; }

int32_t check_memory(const char* what, const void* memory, uint64_t given, uint64_t needed) {
  LACUNA_REQUIRE(given >= needed, "%s must have at least %llu bytes, got %llu", what,
                 static_cast<unsigned long long>(needed), static_cast<unsigned long long>(given));
  LACUNA_REQUIRE(needed == 0 || (memory != nullptr && reinterpret_cast<uintptr_t>(memory) % 16 == 0),
                 "%s must be aligned to 16 bytes and not null", what);
  return LACUNA_OK;
}

int32_t check_backward(const lacuna_backward_params& b) {
  const lacuna_forward_params& p = b.forward;
  LACUNA_CHECK(check_mask(p.mask, p.shape));
  if (p.plan.kind == LACUNA_PLAN_LISTS) LACUNA_CHECK(check_schedule(p.schedule, p.plan, p.shape, 64));
  LACUNA_REQUIRE(p.q != nullptr && p.out != nullptr && p.lse != nullptr && b.dout != nullptr && b.dq != nullptr,
                 "q, out, lse, dout or dq is null");
  LACUNA_REQUIRE(p.shape.kv_len == 0 || (p.k != nullptr && p.v != nullptr && b.dk != nullptr && b.dv != nullptr),
                 "k, v, dk or dv is null");
  LACUNA_REQUIRE(b.dsink == nullptr || p.sink != nullptr, "dsink is asked for, but there is no sink");
  LACUNA_REQUIRE(finite(p.scale) && finite(p.softcap) && p.softcap >= 0.0f,
                 "scale must be finite and softcap finite and >= 0, got %g and %g", static_cast<double>(p.scale),
                 static_cast<double>(p.softcap));
  LACUNA_REQUIRE(p.splits == 1, "splits must be 1, got %d: backward cuts by itself", p.splits);
  return LACUNA_OK;
}

int32_t launch_query(const sm80::BackwardArgs& args, void* stream) {
  switch (args.forward.params.shape.head_dim) {
    case 32:
      return sm80::query_grad_d32(args, stream);
    case 64:
      return sm80::query_grad_d64(args, stream);
    case 96:
      return sm80::query_grad_d96(args, stream);
    case 128:
      return sm80::query_grad_d128(args, stream);
    default:
      return sm80::query_grad_d256(args, stream);
  }
}

int32_t launch_key(const sm80::BackwardArgs& args, void* stream) {
  switch (args.forward.params.shape.head_dim) {
    case 32:
      return sm80::key_grad_d32(args, stream);
    case 64:
      return sm80::key_grad_d64(args, stream);
    case 96:
      return sm80::key_grad_d96(args, stream);
    case 128:
      return sm80::key_grad_d128(args, stream);
    default:
      return sm80::key_grad_d256(args, stream);
  }
}

}  // namespace

int32_t backward_config(const lacuna_backward_params* params, lacuna_backward_config* config) {
  LACUNA_REQUIRE(params != nullptr && config != nullptr, "backward_config: null argument");
  const lacuna_forward_params& p = params->forward;
  // Keys without queries have gradients: zeros.
  lacuna_shape checked = p.shape;
  if (checked.q_len == 0) checked.q_len = 1;
  LACUNA_CHECK(check_shape(checked));
  if (p.shape.block_table != nullptr) return set_error(LACUNA_UNSUPPORTED, "gradients of paged K and V");
  LACUNA_REQUIRE(
      p.family == LACUNA_FAMILY_AUTO || p.family == LACUNA_FAMILY_PORTABLE || p.family == LACUNA_FAMILY_HOPPER,
      "family must be 0 (auto), 80 or 90, got %d", p.family);
  if (p.family == LACUNA_FAMILY_HOPPER) {
    return set_error(LACUNA_UNSUPPORTED, "backward with Hopper kernels: the portable family alone has them");
  }
  LACUNA_CHECK(check_plan(p.plan, p.shape));
  LACUNA_CHECK(check_counts(p.shape, p.plan));
  *config = {};
  LACUNA_CHECK(describe_tiles(p.shape, config));
  BackwardSchedule schedule;
  BackwardWorkspace workspace;
  config->schedule_bytes = lay_out(p.shape, p.plan, nullptr, schedule);
  config->pieces = schedule.slots;
  config->workspace_bytes = lay_out(p.shape, p.plan, schedule.slots, nullptr, workspace);
  return LACUNA_OK;
}

int32_t backward_schedule(const lacuna_backward_params* params, void* stream) {
  lacuna_backward_config config;
  LACUNA_CHECK(backward_config(params, &config));
  const lacuna_forward_params& p = params->forward;
  LACUNA_CHECK(check_mask(p.mask, p.shape));
  LACUNA_CHECK(check_memory("schedule", params->schedule, params->schedule_bytes, config.schedule_bytes));
  BackwardSchedule schedule;
  lay_out(p.shape, p.plan, params->schedule, schedule);
  if (schedule.columns == 0) return LACUNA_OK;
  if (p.plan.kind == LACUNA_PLAN_LISTS) LACUNA_CHECK(transpose_lists(p, schedule, stream));
  return schedule_columns(p, schedule, stream);
}

int32_t backward(const lacuna_backward_params* params, void* stream) {
  lacuna_backward_config config;
  LACUNA_CHECK(backward_config(params, &config));
  const lacuna_backward_params& b = *params;
  LACUNA_CHECK(check_backward(b));
  LACUNA_CHECK(check_memory("schedule", b.schedule, b.schedule_bytes, config.schedule_bytes));
  LACUNA_CHECK(check_memory("workspace", b.workspace, b.workspace_bytes, config.workspace_bytes));
  const lacuna_forward_params& p = b.forward;
  sm80::BackwardArgs args = {};
  args.forward.params = p;
  args.forward.q_vectors = row_starts_aligned(p.q, p.q_stride, 16);
  args.forward.k_vectors = row_starts_aligned(p.k, p.k_stride, 16);
  args.forward.v_vectors = row_starts_aligned(p.v, p.v_stride, 16);
  args.forward.out_pairs = row_starts_aligned(b.dq, b.dq_stride, 4);
  args.dout = b.dout;
  args.dq = b.dq;
  args.dk = b.dk;
  args.dv = b.dv;
  args.dout_stride = b.dout_stride;
  args.dq_stride = b.dq_stride;
  args.dk_stride = b.dk_stride;
  args.dv_stride = b.dv_stride;
  args.dout_vectors = row_starts_aligned(b.dout, b.dout_stride, 16);
  args.dk_pairs = row_starts_aligned(b.dk, b.dk_stride, 4);
  args.dv_pairs = row_starts_aligned(b.dv, b.dv_stride, 4);
  lay_out(p.shape, p.plan, b.schedule, args.schedule);
  lay_out(p.shape, p.plan, args.schedule.slots, b.workspace, args.workspace);

  if (p.shape.q_len > 0) LACUNA_CHECK(backward_rows(b, args.workspace, stream));
  if (b.dsink != nullptr) LACUNA_CHECK(backward_sink(b, args.workspace, stream));
  if (p.shape.q_len > 0) LACUNA_CHECK(launch_query(args, stream));
  if (args.schedule.columns == 0) return LACUNA_OK;
  LACUNA_CHECK(launch_key(args, stream));
  return args.schedule.slots == 0 ? LACUNA_OK : backward_merge(b, args.schedule, args.workspace, stream);
}

}  // namespace LACUNA_NS
