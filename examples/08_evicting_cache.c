// Decoding from C over a cache that keeps only what S2-Attention can still reach: every token gets the bits that all
// keys kept would give it. At the end, page lists as FlashInfer keeps them become a block table.
//   cc 08_evicting_cache.c $(pkg-config --cflags --libs lacuna) && ./a.out
#include <lacuna.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { Q_HEADS = 4, KV_HEADS = 2, TOKENS = 600, PROMPT = 100, DIM = 64, BLOCK = 16 };

static void check(lacuna_status status) {
  if (status == LACUNA_OK) return;
  fprintf(stderr, "%s: %s\n", lacuna_status_name(status), lacuna_last_error());
  exit(1);
}

static uint16_t q[TOKENS * Q_HEADS * DIM], k[TOKENS * KV_HEADS * DIM], v[TOKENS * KV_HEADS * DIM];
static uint16_t out[2][Q_HEADS * DIM];
static char workspace[1 << 22];

static void fill(uint16_t* values, int count) {
  for (int i = 0; i < count; i++) {
    const float value = 2.0f * (float)rand() / (float)RAND_MAX - 1.0f;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    values[i] = (uint16_t)(bits >> 16);  // bf16
  }
}

static lacuna_tensor tensor(void* data, lacuna_dtype dtype, int64_t batch, int64_t heads, int64_t len, int64_t dim) {
  lacuna_tensor result;
  check(lacuna_tensor_init(&result, sizeof result));
  result.data = data;
  result.dtype = (int32_t)dtype;
  const int64_t shape[4] = {batch, heads, len, dim};
  memcpy(result.shape, shape, sizeof shape);
  return result;
}

// Tokens [first, first + count) of [tokens, heads, dim] as [1, heads, count, dim], without a copy.
static lacuna_tensor tokens(uint16_t* values, int64_t heads, int64_t first, int64_t count) {
  lacuna_tensor result = tensor(values + first * heads * DIM, LACUNA_DTYPE_BF16, 1, heads, count, DIM);
  const int64_t strides[4] = {TOKENS * heads * DIM, DIM, heads * DIM, 1};
  memcpy(result.strides, strides, sizeof strides);
  return result;
}

static void page_lists(lacuna_stream* stream) {
  // Sequence 0 has the pages 5 and 2, with 3 keys in the latter; sequence 1 has page 7, full.
  int32_t starts[3] = {0, 2, 3}, pages[3] = {5, 2, 7}, last[2] = {3, 16}, table[6], lens[2];
  const lacuna_tensor indptr = tensor(starts, LACUNA_DTYPE_I32, 1, 1, 1, 3);
  const lacuna_tensor indices = tensor(pages, LACUNA_DTYPE_I32, 1, 1, 1, 3);
  const lacuna_tensor last_page_len = tensor(last, LACUNA_DTYPE_I32, 1, 1, 1, 2);
  const lacuna_tensor block_table = tensor(table, LACUNA_DTYPE_I32, 2, 1, 1, 3);
  const lacuna_tensor kv_lens = tensor(lens, LACUNA_DTYPE_I32, 1, 1, 1, 2);
  check(lacuna_page_lists(stream, 16, 48, &indptr, &indices, &last_page_len, &block_table, &kv_lens));
  const int32_t expected[6] = {5, 2, -1, 7, -1, -1};
  if (memcmp(table, expected, sizeof table) != 0 || lens[0] != 19 || lens[1] != 16) {
    fprintf(stderr, "page lists: wrong table or lengths\n");
    exit(1);
  }
}

int main(void) {
  lacuna_device* device = NULL;
  lacuna_stream* stream = NULL;
  lacuna_plan* plan = NULL;
  lacuna_s2_cache* cache = NULL;
  check(lacuna_device_open("simt", &device));
  check(lacuna_stream_create(device, &stream));

  lacuna_shape shape;
  check(lacuna_shape_init(&shape, sizeof shape));
  shape.dtype = LACUNA_DTYPE_BF16;
  shape.batch = 1;
  shape.q_heads = Q_HEADS;
  shape.kv_heads = KV_HEADS;
  shape.q_len = 1;
  shape.kv_len = TOKENS;
  shape.head_dim = DIM;
  lacuna_s2_config config;
  check(lacuna_s2_config_init(&config, sizeof config));
  config.block_size = BLOCK;
  config.local_blocks = 4;
  config.vertical_stride = 6;
  check(lacuna_plan_s2(&shape, &config, &plan));
  check(lacuna_s2_cache_create(stream, &shape, &config, &cache));
  size_t bytes = 0, full_bytes = 0, needed = 0;
  check(lacuna_s2_cache_bytes(&shape, &config, &bytes, &full_bytes));
  check(lacuna_decode_workspace(&shape, plan, &needed));
  if (needed > sizeof workspace || bytes >= full_bytes) return 1;

  fill(q, TOKENS * Q_HEADS * DIM);
  fill(k, TOKENS * KV_HEADS * DIM);
  fill(v, TOKENS * KV_HEADS * DIM);
  for (int64_t first = 0; first < TOKENS;) {
    // The prompt attends to its own keys (not shown); what later tokens reach of it is kept.
    const int64_t count = first == 0 ? PROMPT : 1;
    int32_t keys = (int32_t)(first + count);
    const lacuna_tensor lens = tensor(&keys, LACUNA_DTYPE_I32, 1, 1, 1, 1);
    const lacuna_tensor new_k = tokens(k, KV_HEADS, first, count), new_v = tokens(v, KV_HEADS, first, count);
    check(lacuna_s2_cache_append(stream, cache, &new_k, &new_v, &lens, NULL, first == 0 ? 0 : 1));
    if (first > 0) {
      lacuna_options options;
      check(lacuna_options_init(&options, sizeof options));
      options.flags = LACUNA_CAUSAL;
      options.kv_lens = &lens;
      lacuna_tensor kept_k = new_k, kept_v = new_v, table = lens;
      check(lacuna_s2_cache_views(cache, TOKENS, &kept_k, &kept_v, &table, &options.page_size));
      options.block_table = &table;
      const lacuna_tensor query = tokens(q, Q_HEADS, first, 1);
      const lacuna_tensor kept = tensor(out[0], LACUNA_DTYPE_BF16, 1, Q_HEADS, 1, DIM);
      check(lacuna_decode(stream, &shape, &options, plan, &query, &kept_k, &kept_v, &kept, NULL, workspace, needed));
      // The same with every key.
      options.block_table = NULL;
      options.page_size = 0;
      const lacuna_tensor all_k = tokens(k, KV_HEADS, 0, TOKENS), all_v = tokens(v, KV_HEADS, 0, TOKENS);
      const lacuna_tensor all = tensor(out[1], LACUNA_DTYPE_BF16, 1, Q_HEADS, 1, DIM);
      check(lacuna_decode(stream, &shape, &options, plan, &query, &all_k, &all_v, &all, NULL, workspace, needed));
      if (memcmp(out[0], out[1], sizeof out[0]) != 0) {
        fprintf(stderr, "token %d: the cache gives other bits\n", (int)first);
        return 1;
      }
    }
    first += count;
  }
  page_lists(stream);
  printf("%d tokens decoded over %zu KiB instead of %zu, every bit the same\n", TOKENS - PROMPT, bytes >> 10,
         full_bytes >> 10);
  check(lacuna_s2_cache_destroy(cache));
  check(lacuna_plan_destroy(plan));
  check(lacuna_stream_destroy(stream));
  check(lacuna_device_destroy(device));
  return 0;
}
