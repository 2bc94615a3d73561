// The gradients of attention from C, with those by definition beside them.
//   cc 04_gradient.c $(pkg-config --cflags --libs lacuna) -lm && ./a.out [auto|simt|cuda:N]
#include <lacuna.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { Q_HEADS = 4, KV_HEADS = 2, TOKENS = 90, DIM = 32, Q = Q_HEADS * TOKENS * DIM, KV = KV_HEADS * TOKENS * DIM };

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

static void fill(uint16_t* values, int count) {
  for (int i = 0; i < count; i++) {
    const float value = 2.0f * (float)rand() / (float)RAND_MAX - 1.0f;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    values[i] = (uint16_t)(bits >> 16);
  }
}

static lacuna_tensor packed(void* data, lacuna_dtype dtype, int64_t heads, int64_t dim) {
  lacuna_tensor tensor;
  check(lacuna_tensor_init(&tensor, sizeof tensor));
  tensor.data = data;
  tensor.dtype = (int32_t)dtype;
  const int64_t shape[4] = {1, heads, TOKENS, dim};
  memcpy(tensor.shape, shape, sizeof shape);
  return tensor;
}

static uint16_t q[Q], k[KV], v[KV], out[Q], dout[Q], dq[Q], dk[KV], dv[KV];
static float lse[Q_HEADS * TOKENS];
static double dq_exact[Q], dk_exact[KV], dv_exact[KV];

static double dot(const uint16_t* a, const uint16_t* b) {
  double sum = 0.0;
  for (int d = 0; d < DIM; d++) sum += (double)to_float(a[d]) * to_float(b[d]);
  return sum;
}

// Causal attention of one query row backwards, in double.
static void by_definition(int head, int query) {
  const int row = (head * TOKENS + query) * DIM, first = head * KV_HEADS / Q_HEADS * TOKENS * DIM;
  const double scale = 1.0 / sqrt(DIM);
  double p[TOKENS], dp[TOKENS], sum = 0.0, delta = 0.0;
  for (int key = 0; key <= query; key++) sum += p[key] = exp(scale * dot(q + row, k + first + key * DIM));
  for (int key = 0; key <= query; key++) {
    p[key] /= sum;
    dp[key] = dot(dout + row, v + first + key * DIM);
    delta += p[key] * dp[key];
  }
  for (int key = 0; key <= query; key++) {
    const double ds = scale * p[key] * (dp[key] - delta);
    for (int d = 0; d < DIM; d++) {
      const int at = first + key * DIM + d;
      dq_exact[row + d] += ds * to_float(k[at]);
      dk_exact[at] += ds * to_float(q[row + d]);
      dv_exact[at] += p[key] * to_float(dout[row + d]);
    }
  }
}

static double error(const uint16_t* got, const double* exact, int count) {
  double difference = 0.0, size = 0.0;
  for (int i = 0; i < count; i++) {
    difference += (to_float(got[i]) - exact[i]) * (to_float(got[i]) - exact[i]);
    size += exact[i] * exact[i];
  }
  return sqrt(difference / size);
}

int main(int argc, char** argv) {
  lacuna_device* device;
  lacuna_stream* stream;
  check(lacuna_device_open(argc > 1 ? argv[1] : "simt", &device));
  check(lacuna_stream_create(device, &stream));
  fill(q, Q), fill(k, KV), fill(v, KV), fill(dout, Q);

  lacuna_shape shape;
  check(lacuna_shape_init(&shape, sizeof shape));
  shape.dtype = LACUNA_DTYPE_BF16;
  shape.batch = 1, shape.q_heads = Q_HEADS, shape.kv_heads = KV_HEADS;
  shape.q_len = shape.kv_len = TOKENS;
  shape.head_dim = DIM;
  lacuna_options options;
  check(lacuna_options_init(&options, sizeof options));
  options.flags = LACUNA_CAUSAL;
  lacuna_plan* plan;
  lacuna_columns* columns;
  check(lacuna_plan_dense(&plan));
  check(lacuna_columns_create(stream, &shape, &options, plan, &columns));

  const lacuna_tensor tq = packed(q, LACUNA_DTYPE_BF16, Q_HEADS, DIM), tk = packed(k, LACUNA_DTYPE_BF16, KV_HEADS, DIM);
  const lacuna_tensor tv = packed(v, LACUNA_DTYPE_BF16, KV_HEADS, DIM);
  const lacuna_tensor to = packed(out, LACUNA_DTYPE_BF16, Q_HEADS, DIM), tl = packed(lse, LACUNA_DTYPE_F32, Q_HEADS, 1);
  const lacuna_tensor tdo = packed(dout, LACUNA_DTYPE_BF16, Q_HEADS, DIM);
  const lacuna_tensor tdq = packed(dq, LACUNA_DTYPE_BF16, Q_HEADS, DIM);
  const lacuna_tensor tdk = packed(dk, LACUNA_DTYPE_BF16, KV_HEADS, DIM);
  const lacuna_tensor tdv = packed(dv, LACUNA_DTYPE_BF16, KV_HEADS, DIM);

  size_t forward, backward;
  check(lacuna_forward_workspace(&shape, &options, &forward));
  check(lacuna_backward_workspace(stream, &shape, &options, plan, &backward));
  const size_t bytes = forward > backward ? forward : backward;
  void* workspace = aligned_alloc(16, (bytes + 15) / 16 * 16);
  // The LSE that forward leaves is what backward starts from.
  check(lacuna_forward(stream, &shape, &options, plan, NULL, &tq, &tk, &tv, &to, &tl, workspace, bytes));
  lacuna_gradients gradients;
  check(lacuna_gradients_init(&gradients, sizeof gradients));
  gradients.q = &tq, gradients.k = &tk, gradients.v = &tv;
  gradients.out = &to, gradients.lse = &tl, gradients.dout = &tdo;
  gradients.dq = &tdq, gradients.dk = &tdk, gradients.dv = &tdv;
  check(lacuna_backward(stream, &shape, &options, plan, NULL, columns, &gradients, workspace, bytes));
  check(lacuna_stream_synchronize(stream));

  for (int head = 0; head < Q_HEADS; head++)
    for (int query = 0; query < TOKENS; query++) by_definition(head, query);
  const double errors[3] = {error(dq, dq_exact, Q), error(dk, dk_exact, KV), error(dv, dv_exact, KV)};
  printf("relative errors: dq %.1e, dk %.1e, dv %.1e\n", errors[0], errors[1], errors[2]);

  check(lacuna_columns_destroy(columns));
  check(lacuna_plan_destroy(plan));
  check(lacuna_stream_destroy(stream));
  check(lacuna_device_destroy(device));
  free(workspace);
  // Probabilities, their gradients, out and the results are rounded to 8 bits.
  for (int i = 0; i < 3; i++)
    if (!(errors[i] < 0.008)) return 1;
  return 0;
}
