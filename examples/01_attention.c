// Block-sparse attention from C: a mask of blocks, one call, and the answer by definition beside it.
//   cc 01_attention.c $(pkg-config --cflags --libs lacuna) -lm && ./a.out [auto|simt|cuda:N]
#include <lacuna.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  BATCH = 1,
  Q_HEADS = 4,
  KV_HEADS = 2,
  TOKENS = 200,
  DIM = 64,
  BLOCK = 32,
  BLOCKS = (TOKENS + BLOCK - 1) / BLOCK
};

static void check(lacuna_status status) {
  if (status == LACUNA_OK) return;
  fprintf(stderr, "%s: %s\n", lacuna_status_name(status), lacuna_last_error());
  exit(1);
}

// bf16 is the upper half of a float; random values are cut to it, so that both sides see the same numbers.
static float to_float(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint16_t random_bf16(void) {
  const float value = 2.0f * (float)rand() / (float)RAND_MAX - 1.0f;
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)(bits >> 16);
}

static lacuna_tensor packed(void* data, lacuna_dtype dtype, int64_t heads, int64_t dim) {
  lacuna_tensor tensor;
  check(lacuna_tensor_init(&tensor, sizeof tensor));
  tensor.data = data;
  tensor.dtype = (int32_t)dtype;
  const int64_t shape[4] = {BATCH, heads, TOKENS, dim};
  memcpy(tensor.shape, shape, sizeof shape);
  return tensor;
}

// Attention of one query row by definition, in double.
static void by_definition(const uint16_t* q, const uint16_t* k, const uint16_t* v, const uint8_t* blocks, int query,
                          double* row, double* lse) {
  double logit[TOKENS], sum = 0.0;
  memset(row, 0, DIM * sizeof *row);
  for (int key = 0; key <= query; key++) {
    if (!blocks[key / BLOCK]) continue;
    logit[key] = 0.0;
    for (int d = 0; d < DIM; d++) logit[key] += to_float(q[d]) * (double)to_float(k[key * DIM + d]);
    logit[key] /= sqrt(DIM);
    sum += exp(logit[key]);
  }
  *lse = log(sum);
  for (int key = 0; key <= query; key++) {
    if (!blocks[key / BLOCK]) continue;
    for (int d = 0; d < DIM; d++) row[d] += exp(logit[key] - *lse) * to_float(v[key * DIM + d]);
  }
}

int main(int argc, char** argv) {
  lacuna_device* device;
  lacuna_stream* stream;
  check(lacuna_device_open(argc > 1 ? argv[1] : "simt", &device));
  check(lacuna_stream_create(device, &stream));
  lacuna_device_info info;
  check(lacuna_device_info_init(&info, sizeof info));
  check(lacuna_device_describe(device, &info));
  if (!info.is_simt) {
    fprintf(stderr, "this example keeps its tensors in host memory, which is for the SIMT host\n");
    return 1;
  }

  lacuna_shape shape;
  check(lacuna_shape_init(&shape, sizeof shape));
  shape.dtype = LACUNA_DTYPE_BF16;
  shape.batch = BATCH;
  shape.q_heads = Q_HEADS;
  shape.kv_heads = KV_HEADS;
  shape.q_len = shape.kv_len = TOKENS;
  shape.head_dim = DIM;

  static uint16_t q[Q_HEADS * TOKENS * DIM], k[KV_HEADS * TOKENS * DIM], v[KV_HEADS * TOKENS * DIM];
  static uint16_t out[Q_HEADS * TOKENS * DIM];
  static float lse[Q_HEADS * TOKENS];
  for (size_t i = 0; i < sizeof q / sizeof *q; i++) q[i] = random_bf16();
  for (size_t i = 0; i < sizeof k / sizeof *k; i++) k[i] = random_bf16();
  for (size_t i = 0; i < sizeof v / sizeof *v; i++) v[i] = random_bf16();

  // Which blocks: the diagonal, the first, and every third of the others.
  static uint8_t blocks[BLOCKS][BLOCKS];
  for (int i = 0; i < BLOCKS; i++)
    for (int j = 0; j <= i; j++) blocks[i][j] = j == i || j == 0 || (i + j) % 3 == 0;
  lacuna_rows rows;
  check(lacuna_rows_init(&rows, sizeof rows));
  rows.block_q = rows.block_k = BLOCK;

  lacuna_options options;
  check(lacuna_options_init(&options, sizeof options));
  options.flags = LACUNA_CAUSAL;

  lacuna_plan* plan;
  lacuna_schedule* schedule;
  check(lacuna_plan_from_mask(stream, &shape, &rows, &blocks[0][0], sizeof blocks, &plan));
  check(lacuna_schedule_create(stream, &shape, &options, plan, &schedule));

  size_t bytes;
  check(lacuna_forward_workspace(&shape, &options, &bytes));
  void* workspace = malloc(bytes);
  const lacuna_tensor tq = packed(q, LACUNA_DTYPE_BF16, Q_HEADS, DIM), tk = packed(k, LACUNA_DTYPE_BF16, KV_HEADS, DIM);
  const lacuna_tensor tv = packed(v, LACUNA_DTYPE_BF16, KV_HEADS, DIM),
                      to = packed(out, LACUNA_DTYPE_BF16, Q_HEADS, DIM);
  const lacuna_tensor tl = packed(lse, LACUNA_DTYPE_F32, Q_HEADS, 1);
  check(lacuna_forward(stream, &shape, &options, plan, schedule, &tq, &tk, &tv, &to, &tl, workspace, bytes));
  check(lacuna_stream_synchronize(stream));

  double difference = 0.0, size = 0.0, lse_difference = 0.0;
  for (int h = 0; h < Q_HEADS; h++) {
    const int kv = h * KV_HEADS / Q_HEADS;
    for (int t = 0; t < TOKENS; t++) {
      double row[DIM], expected_lse;
      by_definition(q + (h * TOKENS + t) * DIM, k + kv * TOKENS * DIM, v + kv * TOKENS * DIM, blocks[t / BLOCK], t, row,
                    &expected_lse);
      lse_difference = fmax(lse_difference, fabs(lse[h * TOKENS + t] - expected_lse));
      for (int d = 0; d < DIM; d++) {
        const double error = to_float(out[(h * TOKENS + t) * DIM + d]) - row[d];
        difference += error * error;
        size += row[d] * row[d];
      }
    }
  }
  uint64_t pairs;
  lacuna_kernel_info kernel;
  check(lacuna_plan_visited_pairs(stream, plan, &shape, &options, &pairs));
  check(lacuna_kernel_info_init(&kernel, sizeof kernel));
  check(lacuna_forward_kernel(stream, &shape, &options, plan, &kernel));
  const double error = sqrt(difference / size), dense = Q_HEADS * (TOKENS * (TOKENS + 1) / 2.0);
  printf("%s on %s: %.1f %% of the pairs, relative error %.1e, LSE %.1e\n", kernel.name, info.name,
         100.0 * (double)pairs / dense, error, lse_difference);

  check(lacuna_schedule_destroy(schedule));
  check(lacuna_plan_destroy(plan));
  check(lacuna_stream_destroy(stream));
  check(lacuna_device_destroy(device));
  free(workspace);
  // Probabilities and results are rounded to 8 bits: two roundings of 2^-9 of the norm.
  return error < 0.0040 && lse_difference < 1e-4 ? 0 : 1;
}
