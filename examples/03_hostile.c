// What the library says to callers who get it wrong: a status and a sentence each time, and nothing else happens. Run
// it under a sanitizer.
//   cc -fsanitize=address 03_hostile.c $(pkg-config --cflags --libs lacuna) -pthread && ./a.out
#include <lacuna.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 2, TOKENS = 64, DIM = 64 };

static int failures, checks;

// The call must fail with this status and a text that holds this part; -v shows all texts.
static void expect(const char* call, lacuna_status status, lacuna_status wanted, const char* part) {
  checks++;
  const char* text = lacuna_last_error();
  if (getenv("VERBOSE")) printf("%-24s %s\n", lacuna_status_name(status), text);
  if (status == wanted && (wanted == LACUNA_OK || strstr(text, part))) return;
  failures++;
  fprintf(stderr, "%s\n  gave %s: %s\n  expected %s with `%s`\n", call, lacuna_status_name(status), text,
          lacuna_status_name(wanted), part);
}
#define REFUSED(call, code, part) expect(#call, call, LACUNA_ERROR_##code, part)
#define FINE(call) expect(#call, call, LACUNA_OK, "")

static lacuna_device* device;
static lacuna_stream* stream;
static lacuna_plan* dense;
static lacuna_shape shape;
static lacuna_options causal;
static uint16_t data[4][HEADS * TOKENS * DIM + 8];
static float lse_data[HEADS * TOKENS];
static lacuna_tensor q, k, v, out, lse;
static void* workspace;
static size_t bytes;

static lacuna_status forward(void) {
  return lacuna_forward(stream, &shape, &causal, dense, NULL, &q, &k, &v, &out, &lse, workspace, bytes);
}

static void reset(void) {
  lacuna_tensor* tensors[4] = {&q, &k, &v, &out};
  for (int i = 0; i < 4; i++) {
    FINE(lacuna_tensor_init(tensors[i], sizeof(lacuna_tensor)));
    tensors[i]->data = data[i];
    tensors[i]->dtype = LACUNA_DTYPE_F16;
    const int64_t sizes[4] = {1, HEADS, TOKENS, DIM};
    memcpy(tensors[i]->shape, sizes, sizeof sizes);
  }
  lse = out;
  lse.data = lse_data;
  lse.dtype = LACUNA_DTYPE_F32;
  lse.shape[3] = 1;
  FINE(lacuna_shape_init(&shape, sizeof shape));
  shape.dtype = LACUNA_DTYPE_F16;
  shape.batch = 1;
  shape.q_heads = shape.kv_heads = HEADS;
  shape.q_len = shape.kv_len = TOKENS;
  shape.head_dim = DIM;
  FINE(lacuna_options_init(&causal, sizeof causal));
  causal.flags = LACUNA_CAUSAL;
}

static void devices(void) {
  lacuna_device* none = NULL;
  REFUSED(lacuna_device_open(NULL, &none), NULL, "name");
  REFUSED(lacuna_device_open("simt", NULL), NULL, "device");
  REFUSED(lacuna_device_open("tpu", &none), VALUE, "auto, simt or cuda:N");
  REFUSED(lacuna_device_open("cuda:-1", &none), VALUE, "cuda:-1");
  REFUSED(lacuna_device_open("\xff\xfe", &none), VALUE, "UTF-8");
  REFUSED(lacuna_device_open("cuda:4096", &none), UNAVAILABLE, "cuda:4096");
  REFUSED(lacuna_stream_create(NULL, &stream), NULL, "device");
  REFUSED(lacuna_stream_wrap(device, &none, (lacuna_stream**)&none), VALUE, "foreign");
  lacuna_device_info info;
  info.struct_size = 12;
  REFUSED(lacuna_device_describe(device, &info), STRUCT, "struct_size");
  REFUSED(lacuna_device_describe(device, NULL), NULL, "lacuna_device_info");
  if (none) failures++;
}

static void handles(void) {
  static long heap;
  REFUSED(lacuna_stream_synchronize((lacuna_stream*)&heap), HANDLE, "stream");
  REFUSED(lacuna_stream_synchronize((lacuna_stream*)1), HANDLE, "stream");
  REFUSED(lacuna_stream_synchronize((lacuna_stream*)-1), HANDLE, "stream");
  REFUSED(lacuna_stream_synchronize((lacuna_stream*)dense), HANDLE, "that of a plan");
  REFUSED(lacuna_stream_synchronize((lacuna_stream*)device), HANDLE, "that of a device");
  REFUSED(lacuna_stream_synchronize(NULL), NULL, "stream");
  lacuna_plan* plan;
  FINE(lacuna_plan_dense(&plan));
  FINE(lacuna_plan_destroy(plan));
  REFUSED(lacuna_plan_destroy(plan), HANDLE, "destroyed");
  lacuna_plan* saved = dense;
  dense = plan;
  REFUSED(forward(), HANDLE, "plan: its handle was destroyed");
  dense = (lacuna_plan*)((uintptr_t)saved + 1000);
  REFUSED(forward(), HANDLE, "never was");
  dense = saved;
  FINE(lacuna_plan_destroy(NULL));
  // Objects keep what they need.
  lacuna_device* other;
  lacuna_stream* own;
  FINE(lacuna_device_open("simt", &other));
  FINE(lacuna_stream_create(other, &own));
  FINE(lacuna_device_destroy(other));
  FINE(lacuna_stream_synchronize(own));
  FINE(lacuna_stream_destroy(own));
  REFUSED(lacuna_stream_destroy(own), HANDLE, "destroyed");
}

static void structs(void) {
  lacuna_shape kept = shape;
  REFUSED(lacuna_shape_init(NULL, sizeof shape), NULL, "lacuna_shape");
  REFUSED(lacuna_shape_init(&shape, 7), STRUCT, "struct_size");
  const uint32_t sizes[] = {0, 1, 7, 12, 4104, 0xffffffff};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    shape.struct_size = sizes[i];
    REFUSED(forward(), STRUCT, "lacuna_shape");
  }
  shape = kept;
  q.struct_size = 0;
  REFUSED(forward(), STRUCT, "q: lacuna_tensor");
  reset();
  // A header of the future: fine until a field that we do not know is set.
  struct {
    lacuna_options options;
    uint64_t later;
  } newer = {causal, 0};
  newer.options.struct_size = sizeof newer;
  FINE(lacuna_forward(stream, &shape, &newer.options, dense, NULL, &q, &k, &v, &out, NULL, workspace, bytes));
  newer.later = 1;
  REFUSED(lacuna_forward(stream, &shape, &newer.options, dense, NULL, &q, &k, &v, &out, NULL, workspace, bytes), STRUCT,
          "newer version");
  // One of the past: what it lacks has its default.
  causal.struct_size = 8;
  FINE(forward());
  reset();
}

static void tensors(void) {
  k.dtype = LACUNA_DTYPE_BF16;
  REFUSED(forward(), VALUE, "dtype of k must be f16, got bf16");
  k.dtype = 77;
  REFUSED(forward(), VALUE, "77");
  reset();
  shape.dtype = LACUNA_DTYPE_F32;
  REFUSED(forward(), VALUE, "f16 or bf16");
  reset();
  lse.dtype = LACUNA_DTYPE_F16;
  REFUSED(forward(), VALUE, "dtype of lse must be f32");
  reset();
  v.data = NULL;
  REFUSED(forward(), NULL, "v: ");
  v.data = (char*)data[2] + 1;
  REFUSED(forward(), VALUE, "aligned");
  reset();
  v.shape[2] = -64;
  REFUSED(forward(), VALUE, "v: shape must be at least 0, got -64");
  v.shape[2] = INT64_MAX;
  REFUSED(forward(), SHAPE, "v");
  v.shape[2] = TOKENS + 1;
  REFUSED(forward(), SHAPE, "v: expected [1, 2, 64, 64], got [1, 2, 65, 64]");
  reset();
  q.strides[3] = 2;
  REFUSED(forward(), VALUE, "the last stride");
  q.strides[3] = 1;
  q.strides[0] = -1;
  REFUSED(forward(), VALUE, "strides");
  q.strides[0] = q.strides[1] = q.strides[2] = INT64_MAX;
  REFUSED(forward(), SHAPE, "2^62");
  reset();
  out.strides[3] = 1;  // every row is the first
  REFUSED(forward(), VALUE, "no two indices");
  reset();
  q.place = LACUNA_PLACE_CUDA;
  q.ordinal = 1;
  REFUSED(forward(), DEVICE, "q lives on cuda:1, but the call runs on simt");
  q.place = 9;
  REFUSED(forward(), VALUE, "lacuna_place");
  reset();
  REFUSED(lacuna_forward(stream, &shape, &causal, dense, NULL, NULL, &k, &v, &out, NULL, workspace, bytes), NULL,
          "q: ");
}

static void numbers(void) {
  int64_t* sizes[] = {&shape.batch, &shape.q_heads, &shape.kv_heads, &shape.q_len, &shape.kv_len, &shape.head_dim};
  const int64_t bad[] = {-1, INT64_MIN, INT64_MAX, (1LL << 30) + 1};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    for (size_t j = 0; j < sizeof bad / sizeof *bad; j++) {
      *sizes[i] = bad[j];
      REFUSED(forward(), VALUE, "must be");
      reset();
    }
  shape.head_dim = 65;
  q.shape[3] = k.shape[3] = v.shape[3] = out.shape[3] = 65;
  expect("head_dim 65", forward(), LACUNA_ERROR_UNSUPPORTED, "head_dim");
  reset();
  shape.q_len = 65;
  REFUSED(forward(), VALUE, "at most kv_len");
  reset();
  causal.flags = 1 << 20;
  REFUSED(forward(), VALUE, "lacuna_option");
  causal.flags = LACUNA_WINDOW_LEFT;
  causal.window_left = -1;
  REFUSED(forward(), VALUE, "window_left");
  reset();
  causal.splits = 65;
  REFUSED(forward(), VALUE, "splits");
  causal.splits = -1;
  REFUSED(forward(), VALUE, "splits");
  reset();
  causal.family = 12;
  REFUSED(forward(), VALUE, "family");
  reset();
  causal.flags |= LACUNA_SCALE;
  causal.scale = 1.0f / 0.0f;
  REFUSED(forward(), VALUE, "scale");
  reset();
  causal.page_size = 16;
  REFUSED(forward(), VALUE, "page_size");
  reset();
  lacuna_tensor lens = q;
  lens.data = lse_data;
  lens.dtype = LACUNA_DTYPE_I32;
  lens.shape[1] = lens.shape[2] = lens.shape[3] = 1;
  causal.kv_lens = causal.cu_seqlens_k = &lens;
  REFUSED(forward(), SHAPE, "cu_seqlens_k: expected [1, 1, 1, 2], got [1, 1, 1, 1]");
  lens.shape[3] = 2;
  REFUSED(forward(), SHAPE, "kv_lens: expected [1, 1, 1, 1]");
  causal.kv_lens = NULL;
  causal.cu_seqlens_q = &lens;
  causal.splits = 2;
  REFUSED(forward(), VALUE, "splits");
  reset();
  size_t needed;
  REFUSED(lacuna_forward_workspace(&shape, &causal, NULL), NULL, "bytes");
  causal.splits = 4;
  FINE(lacuna_forward_workspace(&shape, &causal, &needed));
  REFUSED(forward(), SHAPE, "workspace");
  reset();
  bytes = 0;
  REFUSED(forward(), SHAPE, "workspace");
  bytes = 16;
  void* kept = workspace;
  workspace = (char*)kept + 4;
  REFUSED(forward(), VALUE, "multiple of 16");
  workspace = NULL;
  REFUSED(forward(), NULL, "workspace");
  workspace = kept;
}

static void plans(void) {
  lacuna_plan* plan = NULL;
  lacuna_rows rows;
  FINE(lacuna_rows_init(&rows, sizeof rows));
  const uint8_t mask[1] = {1};
  const int32_t offsets[2] = {0, 1}, descending[2] = {1, 0}, indices[1] = {0}, outside[1] = {1};
  FINE(lacuna_plan_from_mask(stream, &shape, &rows, mask, 1, &plan));
  REFUSED(lacuna_forward(stream, &shape, &causal, plan, NULL, &q, &k, &v, &out, NULL, workspace, bytes), NULL,
          "schedule");
  lacuna_schedule* schedule;
  REFUSED(lacuna_schedule_rebuild(stream, (lacuna_schedule*)plan, plan), HANDLE, "schedule");
  FINE(lacuna_schedule_create(stream, &shape, &causal, plan, &schedule));
  REFUSED(lacuna_forward(stream, &shape, NULL, plan, schedule, &q, &k, &v, &out, NULL, workspace, bytes), VALUE,
          "schedule");
  REFUSED(lacuna_schedule_rebuild(stream, schedule, dense), VALUE, "schedule");
  FINE(lacuna_plan_destroy(plan));
  FINE(lacuna_schedule_destroy(schedule));
  plan = NULL;
  REFUSED(lacuna_plan_from_mask(stream, &shape, &rows, mask, 2, &plan), SHAPE, "block mask");
  REFUSED(lacuna_plan_from_mask(stream, &shape, &rows, NULL, 1, &plan), NULL, "mask");
  REFUSED(lacuna_plan_from_lists(stream, &shape, &rows, offsets, 1, indices, 1, &plan), SHAPE, "row_offsets");
  REFUSED(lacuna_plan_from_lists(stream, &shape, &rows, descending, 2, indices, 1, &plan), LIST, "row 0");
  REFUSED(lacuna_plan_from_lists(stream, &shape, &rows, offsets, 2, outside, 1, &plan), LIST, "row 0");
  rows.block_q = 48;
  REFUSED(lacuna_plan_from_mask(stream, &shape, &rows, mask, 1, &plan), VALUE, "block_q");
  rows.block_q = 64;
  rows.heads = 3;
  REFUSED(lacuna_plan_create(stream, &shape, &rows, 1, &plan), VALUE, "plan heads");
  rows.heads = 1;
  rows.absolute = 2;
  REFUSED(lacuna_plan_create(stream, &shape, &rows, 1, &plan), VALUE, "0 or 1");
  rows.absolute = 0;
  REFUSED(lacuna_plan_create(stream, &shape, &rows, -1, &plan), VALUE, "capacity");
  REFUSED(lacuna_plan_create(stream, &shape, &rows, INT64_MAX, &plan), VALUE, "capacity");
  REFUSED(lacuna_plan_window(63, 1, 1, &plan), VALUE, "block");
  REFUSED(lacuna_plan_dense(NULL), NULL, "plan");
  lacuna_s2_config s2;
  FINE(lacuna_s2_config_init(&s2, sizeof s2));
  s2.vertical_stride = 0;
  REFUSED(lacuna_plan_s2(&shape, &s2, &plan), VALUE, "vertical_stride");
  lacuna_hyper* hyper = NULL;
  lacuna_hyper_config config;
  FINE(lacuna_hyper_config_init(&config, sizeof config));
  config.num_projections = 17;
  REFUSED(lacuna_hyper_create(stream, &shape, &causal, &config, &hyper), VALUE, "num_projections");
  config.num_projections = 7;
  config.sampling = 4;
  REFUSED(lacuna_hyper_create(stream, &shape, &causal, &config, &hyper), VALUE, "sampling");
  config.sampling = 0;
  config.sinks = -1;
  REFUSED(lacuna_hyper_create(stream, &shape, &causal, &config, &hyper), VALUE, "sinks");
  config.sinks = 0;
  config.local_window = config.min_seq_len + 1;
  REFUSED(lacuna_hyper_create(stream, &shape, &causal, &config, &hyper), VALUE, "local_window");
  config.local_window = 0;
  config.align_windows = 2;
  REFUSED(lacuna_hyper_create(stream, &shape, &causal, &config, &hyper), VALUE, "align_windows");
  config.align_windows = 0;
  config.rounds = 0;
  REFUSED(lacuna_hyper_create(stream, &shape, &causal, &config, &hyper), VALUE, "rounds");
  config.rounds = 1;
  config.sampling = 3;
  config.min_seq_len = 16;
  FINE(lacuna_hyper_create(stream, &shape, &causal, &config, &hyper));
  REFUSED(lacuna_hyper_update(stream, hyper, &q, &q), VALUE, "update_with_values");
  REFUSED(lacuna_hyper_update_with_values(stream, hyper, &q, &q, NULL), NULL, "v");
  FINE(lacuna_hyper_destroy(hyper));
  hyper = NULL;
  causal.flags |= LACUNA_SOFTCAP;
  causal.softcap = 30.0f;
  REFUSED(lacuna_hyper_create(stream, &shape, &causal, NULL, &hyper), UNSUPPORTED, "HyperAttention");
  reset();
  lacuna_gate_config gate;
  lacuna_gate* made = NULL;
  FINE(lacuna_gate_config_init(&gate, sizeof gate));
  gate.dtype = LACUNA_DTYPE_F16;
  gate.q_heads = gate.kv_heads = HEADS;
  gate.head_dim = DIM;
  gate.max_len = TOKENS;
  REFUSED(lacuna_gate_create(stream, &gate, &q, NULL, &made), SHAPE, "w_k");
  gate.k_pool = 8;
  REFUSED(lacuna_gate_create(stream, &gate, &q, NULL, &made), VALUE, "lacuna_pool");
  REFUSED(lacuna_gate_cache_create(stream, made, 1, 64, NULL), NULL, "cache");
  if (plan || hyper || made) failures++;
}

static void caches(void) {
  reset();
  lacuna_s2_cache* cache = NULL;
  lacuna_s2_config config;
  FINE(lacuna_s2_config_init(&config, sizeof config));
  config.block_size = 16;
  size_t some = 0, all = 0;
  FINE(lacuna_s2_cache_bytes(&shape, &config, &some, &all));
  REFUSED(lacuna_s2_cache_bytes(&shape, &config, &some, NULL), NULL, "full_bytes");
  REFUSED(lacuna_s2_cache_bytes(NULL, &config, &some, &all), NULL, "lacuna_shape");
  REFUSED(lacuna_s2_cache_create(stream, &shape, &config, NULL), NULL, "cache");
  REFUSED(lacuna_s2_cache_create(NULL, &shape, &config, &cache), NULL, "stream");
  config.block_size = 17;
  REFUSED(lacuna_s2_cache_create(stream, &shape, &config, &cache), VALUE, "block");
  config.block_size = 16;
  config.phi3 = 2;
  REFUSED(lacuna_s2_cache_create(stream, &shape, &config, &cache), VALUE, "phi3");
  config.phi3 = 0;
  FINE(lacuna_s2_cache_create(stream, &shape, &config, &cache));

  int32_t ids[2] = {TOKENS, 0};
  lacuna_tensor lens = lse, two, table = lse, k_view = k, v_view = v;
  lens.data = ids;
  lens.dtype = LACUNA_DTYPE_I32;
  lens.shape[1] = lens.shape[2] = 1;
  two = lens;
  two.shape[3] = 2;
  int64_t page_size = 0;
  REFUSED(lacuna_s2_cache_append(stream, NULL, &k, &v, &lens, NULL, 0), NULL, "cache of blocks");
  REFUSED(lacuna_s2_cache_append(stream, (lacuna_s2_cache*)dense, &k, &v, &lens, NULL, 0), HANDLE, "that of a plan");
  REFUSED(lacuna_plan_destroy((lacuna_plan*)cache), HANDLE, "that of a cache of blocks");
  REFUSED(lacuna_s2_cache_append(stream, cache, NULL, &v, &lens, NULL, 0), NULL, "k");
  REFUSED(lacuna_s2_cache_append(stream, cache, &k, &lse, &lens, NULL, 0), VALUE, "dtype of v");
  REFUSED(lacuna_s2_cache_append(stream, cache, &k, &v, &two, NULL, 0), SHAPE, "kv_lens");
  REFUSED(lacuna_s2_cache_append(stream, cache, &k, &v, &lens, &two, 0), SHAPE, "added");
  REFUSED(lacuna_s2_cache_append(stream, cache, &k, &v, &lens, NULL, -1), VALUE, "queries");
  REFUSED(lacuna_s2_cache_append(stream, cache, &k, &v, &lens, NULL, TOKENS + 1), VALUE, "queries");
  // Lengths are data: nothing is read or written outside.
  const int32_t hostile[] = {TOKENS, 0, -5, 3, 1 << 30, -2147483647 - 1, 2147483647};
  for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
    ids[0] = hostile[i];
    FINE(lacuna_s2_cache_append(stream, cache, &k, &v, &lens, NULL, 1));
    FINE(lacuna_s2_cache_append(stream, cache, &k, &v, &lens, &lens, TOKENS));
  }
  REFUSED(lacuna_s2_cache_views(cache, TOKENS + 1, &k_view, &v_view, &table, &page_size), VALUE, "kv_len");
  REFUSED(lacuna_s2_cache_views(cache, TOKENS, &k_view, NULL, &table, &page_size), NULL, "lacuna_tensor");
  FINE(lacuna_s2_cache_views(cache, TOKENS, &k_view, &v_view, &table, &page_size));
  checks++;
  if (page_size != 16 || table.shape[3] != TOKENS / 16 || k_view.dtype != LACUNA_DTYPE_F16) failures++;
  FINE(lacuna_s2_cache_destroy(cache));
  REFUSED(lacuna_s2_cache_destroy(cache), HANDLE, "destroyed");

  int32_t starts[2] = {0, 2}, pages[2] = {4, 9}, last[1] = {3}, entries[4], length[1];
  lacuna_tensor indptr = two, indices = two, last_page_len = lens, written = two, kv_lens = lens;
  indptr.data = starts;
  indices.data = pages;
  last_page_len.data = last;
  written.data = entries;
  written.shape[3] = 4;
  kv_lens.data = length;
  REFUSED(lacuna_page_lists(stream, 0, 64, &indptr, &indices, &last_page_len, &written, &kv_lens), VALUE, "page_size");
  REFUSED(lacuna_page_lists(stream, 16, 65, &indptr, &indices, &last_page_len, &written, &kv_lens), VALUE, "kv_len");
  REFUSED(lacuna_page_lists(stream, 16, 64, &lens, &indices, &last_page_len, &written, &kv_lens), SHAPE, "indptr");
  REFUSED(lacuna_page_lists(stream, 16, 64, &indptr, &indices, &last_page_len, &written, &q), VALUE, "kv_lens");
  REFUSED(lacuna_page_lists(stream, 16, 64, &indptr, &indices, NULL, &written, &kv_lens), NULL, "last_page_len");
  for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
    starts[0] = hostile[i];
    starts[1] = last[0] = hostile[(i + 3) % (sizeof hostile / sizeof *hostile)];
    FINE(lacuna_page_lists(stream, 16, 64, &indptr, &indices, &last_page_len, &written, &kv_lens));
    checks++;
    if (length[0] < 0 || length[0] > 64) failures++;
  }
}

// A handle is destroyed while other threads use it: they finish, or are told.
static void* use(void* handle) {
  for (int i = 0; i < 200; i++) {
    int64_t overflow;
    const lacuna_status status = lacuna_plan_overflow(stream, (lacuna_plan*)handle, &overflow);
    if (status != LACUNA_OK && status != LACUNA_ERROR_HANDLE) return handle;
    if (status != LACUNA_OK && !strstr(lacuna_last_error(), "plan")) return handle;
  }
  return NULL;
}

static void threads(void) {
  for (int round = 0; round < 50; round++) {
    lacuna_plan* plan;
    lacuna_rows rows;
    FINE(lacuna_rows_init(&rows, sizeof rows));
    FINE(lacuna_plan_create(stream, &shape, &rows, 1, &plan));
    pthread_t users[2];
    for (int i = 0; i < 2; i++)
      if (pthread_create(&users[i], NULL, use, plan)) abort();
    FINE(lacuna_plan_destroy(plan));
    for (int i = 0; i < 2; i++) {
      void* wrong;
      if (pthread_join(users[i], &wrong) || wrong) failures++;
    }
  }
}

static void gradients(void) {
  reset();
  lacuna_columns* columns = NULL;
  lacuna_gradients g;
  size_t needed;
  FINE(lacuna_columns_create(stream, &shape, &causal, dense, &columns));
  REFUSED(lacuna_columns_create(stream, &shape, &causal, dense, NULL), NULL, "columns");
  REFUSED(lacuna_columns_create(stream, NULL, &causal, dense, &columns), NULL, "shape");
  FINE(lacuna_backward_workspace(stream, &shape, &causal, dense, &needed));
  void* memory = aligned_alloc(16, (needed + 15) / 16 * 16);
  static uint16_t written[3][HEADS * TOKENS * DIM];
  lacuna_tensor dq = q, dk = k, dv = v, longer = q;
  dq.data = written[0], dk.data = written[1], dv.data = written[2];
  longer.shape[2] = TOKENS - 1;
  FINE(lacuna_gradients_init(&g, sizeof g));
  g.q = &q, g.k = &k, g.v = &v, g.out = &out, g.lse = &lse, g.dout = &q, g.dq = &dq, g.dk = &dk, g.dv = &dv;
#define BACKWARD(size) lacuna_backward(stream, &shape, &causal, dense, NULL, columns, &g, memory, size)
  FINE(forward());
  FINE(BACKWARD(needed));
  REFUSED(BACKWARD(needed - 16), SHAPE, "workspace");
  REFUSED(lacuna_backward(stream, &shape, &causal, dense, NULL, columns, NULL, memory, needed), NULL, "gradients");
  REFUSED(lacuna_backward(stream, &shape, &causal, dense, NULL, NULL, &g, memory, needed), NULL, "columns");
  REFUSED(lacuna_backward(stream, &shape, &causal, dense, NULL, (lacuna_columns*)dense, &g, memory, needed), HANDLE,
          "columns");
  REFUSED(lacuna_backward(stream, &shape, &causal, dense, NULL, columns, &g, NULL, needed), NULL, "workspace");
  g.struct_size = 12;
  REFUSED(BACKWARD(needed), STRUCT, "struct_size");
  g.struct_size = sizeof g;
  g.dout = NULL;
  REFUSED(BACKWARD(needed), NULL, "dout");
  g.dout = &longer;
  REFUSED(BACKWARD(needed), SHAPE, "dout");
  g.dout = &lse;
  REFUSED(BACKWARD(needed), VALUE, "dtype of dout");
  g.dout = &q;
  g.dsink = &lse;
  REFUSED(BACKWARD(needed), SHAPE, "dsink");
  g.dsink = NULL;
  lacuna_options full = causal;
  full.flags = 0;
  REFUSED(lacuna_backward(stream, &shape, &full, dense, NULL, columns, &g, memory, needed), VALUE, "columns");
  FINE(lacuna_columns_destroy(columns));
  REFUSED(BACKWARD(needed), HANDLE, "columns");
  REFUSED(lacuna_columns_destroy(columns), HANDLE, "columns");
  FINE(lacuna_columns_destroy(NULL));
  free(memory);
}

int main(void) {
  if (lacuna_last_error()[0]) failures++;
  FINE(lacuna_device_open("simt", &device));
  FINE(lacuna_stream_create(device, &stream));
  FINE(lacuna_plan_dense(&dense));
  reset();
  FINE(lacuna_forward_workspace(&shape, &causal, &bytes));
  workspace = aligned_alloc(16, bytes);
  FINE(forward());
  devices();
  handles();
  structs();
  tensors();
  numbers();
  plans();
  gradients();
  caches();
  threads();
  // After all that, everything still works.
  FINE(forward());
  FINE(lacuna_plan_destroy(dense));
  FINE(lacuna_stream_destroy(stream));
  FINE(lacuna_device_destroy(device));
  free(workspace);
  if (lacuna_version() != (LACUNA_VERSION_MAJOR << 16 | LACUNA_VERSION_MINOR << 8 | LACUNA_VERSION_PATCH)) failures++;
  printf("liblacuna %u.%u.%u (%s): %d answers, %d wrong\n", lacuna_version() >> 16, lacuna_version() >> 8 & 255,
         lacuna_version() & 255, lacuna_build(), checks, failures);
  return failures != 0;
}
