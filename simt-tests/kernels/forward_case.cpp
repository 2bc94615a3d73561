#include "forward_case.h"

#include <math.h>
#include <string.h>

#include <vector>

namespace {

// splitmix64, as in simt/random.h: inputs do not depend on a library.
struct Values {
  uint64_t state;
  float next() {  // 8 bits in [-2, 2), exact in both 16-bit formats
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<float>(static_cast<int>((z >> 40) & 255) - 128) / 64.0f;
  }
};

// Exact for the values above.
uint16_t narrow(float value, int32_t dtype) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (dtype == LACUNA_BF16 || value == 0.0f) return static_cast<uint16_t>(bits >> 16);
  const uint32_t exponent = (bits >> 23 & 255) - 112;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | exponent << 10 | (bits >> 13 & 0x3ff));
}

double widen(uint16_t pattern, int32_t dtype) {
  if (dtype == LACUNA_BF16) {
    const uint32_t bits = static_cast<uint32_t>(pattern) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
  }
  const int exponent = pattern >> 10 & 31;
  const double mantissa = (pattern & 0x3ff) + (exponent > 0 ? 1024 : 0);
  const double magnitude = exponent == 31 ? NAN : ldexp(mantissa, (exponent > 0 ? exponent : 1) - 25);
  return (pattern & 0x8000) != 0 ? -magnitude : magnitude;
}

size_t query_elements(const simt_forward_case& c) {
  return static_cast<size_t>(c.q_heads) * static_cast<size_t>(c.q_len) * static_cast<size_t>(c.head_dim);
}
size_t key_elements(const simt_forward_case& c) {
  return static_cast<size_t>(c.kv_heads) * static_cast<size_t>(c.kv_len) * static_cast<size_t>(c.head_dim);
}

struct Inputs {
  std::vector<uint16_t> q, k, v;
  explicit Inputs(const simt_forward_case& c) : q(query_elements(c)), k(key_elements(c)), v(key_elements(c)) {
    Values values{static_cast<uint64_t>(c.head_dim)};
    for (std::vector<uint16_t>* tensor : {&q, &k, &v}) {
      for (uint16_t& element : *tensor) element = narrow(values.next(), c.dtype);
    }
  }
};

void* device_copy(const std::vector<uint16_t>& from, int32_t guard) {
  void* to = lacuna_simt_alloc(from.size() * 2, guard);
  if (to != nullptr) memcpy(to, from.data(), from.size() * 2);
  return to;
}

lacuna_strides contiguous(int64_t heads, int64_t len, int64_t columns) {
  return lacuna_strides{heads * len * columns, len * columns, columns};
}

float scale_of(const simt_forward_case& c) { return 1.0f / sqrtf(static_cast<float>(c.head_dim)); }

}  // namespace

extern "C" int32_t simt_forward_run(const simt_forward_case* problem, lacuna_simt_stream* stream, uint16_t* out,
                                    float* lse) {
  const simt_forward_case& c = *problem;
  const Inputs inputs(c);
  const size_t rows = static_cast<size_t>(c.q_heads) * static_cast<size_t>(c.q_len);
  lacuna_forward_params p = {};
  p.shape.batch = 1;
  p.shape.q_heads = c.q_heads;
  p.shape.kv_heads = c.kv_heads;
  p.shape.q_len = c.q_len;
  p.shape.kv_len = c.kv_len;
  p.shape.head_dim = c.head_dim;
  p.shape.dtype = c.dtype;
  p.mask = lacuna_mask{c.causal, -1, -1};
  p.plan.plan_batch = 1;
  p.plan.heads = 1;
  p.plan.block_q = 64;
  p.plan.block_k = 64;
  p.plan.formula.vertical_stride = 1;  // every block
  p.plan.formula.heads_per_step = 1;
  void* const q = device_copy(inputs.q, c.guard);
  void* const k = device_copy(inputs.k, c.guard);
  void* const v = device_copy(inputs.v, c.guard);
  void* const device_out = lacuna_simt_alloc(query_elements(c) * 2, c.guard);
  void* const device_lse = lacuna_simt_alloc(rows * 4, c.guard);
  p.q = q;
  p.k = k;
  p.v = v;
  p.out = device_out;
  p.lse = static_cast<float*>(device_lse);
  p.q_stride = p.out_stride = contiguous(c.q_heads, c.q_len, c.head_dim);
  p.k_stride = p.v_stride = contiguous(c.kv_heads, c.kv_len, c.head_dim);
  p.lse_stride = contiguous(c.q_heads, c.q_len, 1);
  p.scale = scale_of(c);
  p.splits = 1;
  p.family = c.family;
  const int32_t status = lacuna_simt_kernels()->forward(&p, stream);
  memcpy(out, device_out, query_elements(c) * 2);
  memcpy(lse, device_lse, rows * 4);
  for (void* pointer : {q, k, v, device_out, device_lse}) lacuna_simt_free(pointer);
  return status;
}

extern "C" void simt_forward_compare(const simt_forward_case* problem, const uint16_t* out, const float* lse,
                                     double* out_error, double* lse_error) {
  const simt_forward_case& c = *problem;
  const Inputs inputs(c);
  const size_t dim = static_cast<size_t>(c.head_dim);
  double difference = 0, norm = 0, lse_worst = 0;
  std::vector<double> weights(static_cast<size_t>(c.kv_len));
  for (int head = 0; head < c.q_heads; ++head) {
    const size_t kv_row = static_cast<size_t>(head * c.kv_heads / c.q_heads) * static_cast<size_t>(c.kv_len);
    for (int t = 0; t < c.q_len; ++t) {
      const size_t row = static_cast<size_t>(head) * static_cast<size_t>(c.q_len) + static_cast<size_t>(t);
      const size_t keys = static_cast<size_t>(c.causal != 0 ? t + c.kv_len - c.q_len + 1 : c.kv_len);
      double maximum = -INFINITY, total = 0;
      for (size_t j = 0; j < keys; ++j) {
        double dot = 0;
        for (size_t d = 0; d < dim; ++d) {
          dot += widen(inputs.q[row * dim + d], c.dtype) * widen(inputs.k[(kv_row + j) * dim + d], c.dtype);
        }
        weights[j] = dot * static_cast<double>(scale_of(c));
        maximum = fmax(maximum, weights[j]);
      }
      for (size_t j = 0; j < keys; ++j) total += weights[j] = exp(weights[j] - maximum);
      const double error = fabs(static_cast<double>(lse[row]) - (maximum + log(total)));
      lse_worst = error <= lse_worst ? lse_worst : error;  // a NaN stays
      for (size_t d = 0; d < dim; ++d) {
        double value = 0;
        for (size_t j = 0; j < keys; ++j) value += weights[j] * widen(inputs.v[(kv_row + j) * dim + d], c.dtype);
        value /= total;
        const double off = widen(out[row * dim + d], c.dtype) - value;
        difference += off * off;
        norm += value * value;
      }
    }
  }
  *out_error = sqrt(difference / norm);
  *lse_error = lse_worst;
}

extern "C" uint64_t simt_forward_hash(const simt_forward_case* problem, const uint16_t* out, const float* lse) {
  const size_t rows = static_cast<size_t>(problem->q_heads) * static_cast<size_t>(problem->q_len);
  uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  };
  add(out, query_elements(*problem) * 2);
  add(lse, rows * 4);
  return hash;
}
