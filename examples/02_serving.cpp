// A serving loop from C++: chunks of a prompt, then tokens one by one, with K and V in pages that several sequences
// share out of one pool. Threads serve their own sequences at once. The result of every step is compared with dense
// attention over the same keys, which was asked for in another way.
//   c++ -std=c++17 02_serving.cpp $(pkg-config --cflags --libs lacuna) -pthread && ./a.out
#include <lacuna.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kQHeads = 8, kKvHeads = 2, kDim = 64, kPage = 32, kPrompt = 90, kChunk = 48, kTokens = 100;
constexpr int64_t kPages = (kTokens + kPage - 1) / kPage;
constexpr int kThreads = 4;

void check(lacuna_status status) {
  if (status != LACUNA_OK)
    throw std::runtime_error(std::string(lacuna_status_name(status)) + ": " + lacuna_last_error());
}

template <typename T>
using Handle = std::unique_ptr<T, lacuna_status (*)(T*)>;

Handle<lacuna_stream> make_stream(lacuna_device* device) {
  lacuna_stream* stream = nullptr;
  check(lacuna_stream_create(device, &stream));
  return {stream, lacuna_stream_destroy};
}

Handle<lacuna_plan> dense() {
  lacuna_plan* plan = nullptr;
  check(lacuna_plan_dense(&plan));
  return {plan, lacuna_plan_destroy};
}

uint16_t bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

lacuna_tensor tensor(const void* data, lacuna_dtype dtype, std::initializer_list<int64_t> shape,
                     std::initializer_list<int64_t> strides = {0, 0, 0, 0}) {
  lacuna_tensor result;
  check(lacuna_tensor_init(&result, sizeof result));
  result.data = const_cast<void*>(data);
  result.dtype = dtype;
  std::copy(shape.begin(), shape.end(), result.shape);
  std::copy(strides.begin(), strides.end(), result.strides);
  return result;
}

lacuna_shape shape_of(int64_t q_len, int64_t kv_len) {
  lacuna_shape shape;
  check(lacuna_shape_init(&shape, sizeof shape));
  shape.dtype = LACUNA_DTYPE_BF16;
  shape.batch = 1;
  shape.q_heads = kQHeads;
  shape.kv_heads = kKvHeads;
  shape.q_len = q_len;
  shape.kv_len = kv_len;
  shape.head_dim = kDim;
  return shape;
}

lacuna_options causal() {
  lacuna_options options;
  check(lacuna_options_init(&options, sizeof options));
  options.flags = LACUNA_CAUSAL;
  return options;
}

// One sequence: tokens [tokens, heads, dim] as a model makes them, and its pages of the pool.
struct Sequence {
  std::vector<uint16_t> q, k, v;
  std::vector<int32_t> pages;
};

// K and V of all sequences, [pages, kv_heads, page, dim]; contents of pages that nobody owns are NaN.
struct Pool {
  std::vector<uint16_t> k, v;
};

Sequence random_sequence(int seed, Pool& pool) {
  std::mt19937 random(static_cast<unsigned>(seed));
  std::normal_distribution<float> normal;
  Sequence sequence;
  const auto fill = [&](std::vector<uint16_t>& values, int64_t heads) {
    values.resize(static_cast<size_t>(kTokens * heads * kDim));
    for (auto& value : values) value = bf16(normal(random));
  };
  fill(sequence.q, kQHeads);
  fill(sequence.k, kKvHeads);
  fill(sequence.v, kKvHeads);
  // Pages of a sequence lie apart: another sequence has those between.
  for (int64_t page = 0; page < kPages; page++) sequence.pages.push_back(static_cast<int32_t>(page * kThreads + seed));
  for (int64_t t = 0; t < kTokens; t++)
    for (int64_t h = 0; h < kKvHeads; h++) {
      const int64_t row = (sequence.pages[static_cast<size_t>(t / kPage)] * kKvHeads + h) * kPage + t % kPage;
      std::copy_n(&sequence.k[static_cast<size_t>((t * kKvHeads + h) * kDim)], kDim,
                  &pool.k[static_cast<size_t>(row * kDim)]);
      std::copy_n(&sequence.v[static_cast<size_t>((t * kKvHeads + h) * kDim)], kDim,
                  &pool.v[static_cast<size_t>(row * kDim)]);
    }
  return sequence;
}

// Tokens [first, first + count) as [1, heads, count, dim], without a copy.
lacuna_tensor tokens(const std::vector<uint16_t>& values, int64_t heads, int64_t first, int64_t count) {
  return tensor(&values[static_cast<size_t>(first * heads * kDim)], LACUNA_DTYPE_BF16, {1, heads, count, kDim},
                {0, kDim, heads * kDim, 1});
}

// Serves a sequence; gives the largest difference from dense attention.
double serve(lacuna_device* device, const Sequence& sequence, const Pool& pool, int64_t pool_pages) {
  const auto stream = make_stream(device);
  const auto plan = dense();
  std::vector<uint16_t> out(static_cast<size_t>(kTokens * kQHeads * kDim)), expected(out.size());
  const auto pool_dims = {pool_pages, kKvHeads, kPage, kDim};
  const lacuna_tensor k = tensor(pool.k.data(), LACUNA_DTYPE_BF16, pool_dims);
  const lacuna_tensor v = tensor(pool.v.data(), LACUNA_DTYPE_BF16, pool_dims);

  for (int64_t first = 0; first < kTokens;) {
    const bool decoding = first >= kPrompt;
    const int64_t count = decoding ? 1 : std::min(kChunk, kPrompt - first), keys = first + count;
    const lacuna_shape shape = shape_of(count, keys);
    lacuna_options options = causal();
    const lacuna_tensor table = tensor(sequence.pages.data(), LACUNA_DTYPE_I32, {1, 1, 1, (keys + kPage - 1) / kPage});
    options.block_table = &table;
    options.page_size = kPage;
    const lacuna_tensor q = tokens(sequence.q, kQHeads, first, count), o = tokens(out, kQHeads, first, count);
    size_t bytes = 0;
    check(decoding ? lacuna_decode_workspace(&shape, plan.get(), &bytes)
                   : lacuna_forward_workspace(&shape, &options, &bytes));
    std::vector<float> workspace(bytes / sizeof(float));
    check(decoding ? lacuna_decode(stream.get(), &shape, &options, plan.get(), &q, &k, &v, &o, nullptr,
                                   workspace.data(), bytes)
                   : lacuna_forward(stream.get(), &shape, &options, plan.get(), nullptr, &q, &k, &v, &o, nullptr,
                                    workspace.data(), bytes));
    first += count;
  }

  // All queries at once, over keys that are not in pages.
  const lacuna_shape shape = shape_of(kTokens, kTokens);
  const lacuna_options options = causal();
  const lacuna_tensor q = tokens(sequence.q, kQHeads, 0, kTokens), o = tokens(expected, kQHeads, 0, kTokens);
  const lacuna_tensor whole_k = tokens(sequence.k, kKvHeads, 0, kTokens),
                      whole_v = tokens(sequence.v, kKvHeads, 0, kTokens);
  size_t bytes = 0;
  check(lacuna_forward_workspace(&shape, &options, &bytes));
  std::vector<float> workspace(bytes / sizeof(float));
  check(lacuna_forward(stream.get(), &shape, &options, plan.get(), nullptr, &q, &whole_k, &whole_v, &o, nullptr,
                       workspace.data(), bytes));
  check(lacuna_stream_synchronize(stream.get()));

  double largest = 0.0;
  const auto value = [](uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return static_cast<double>(result);
  };
  for (size_t i = 0; i < out.size(); i++) {
    const double difference = std::fabs(value(out[i]) - value(expected[i]));
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

}  // namespace

int main(int argc, char** argv) try {
  lacuna_device* opened = nullptr;
  check(lacuna_device_open(argc > 1 ? argv[1] : "simt", &opened));
  const Handle<lacuna_device> device(opened, lacuna_device_destroy);
  constexpr int64_t pool_pages = kPages * kThreads + 1;
  const auto pool_size = static_cast<size_t>(pool_pages * kKvHeads * kPage * kDim);
  Pool pool{std::vector<uint16_t>(pool_size, 0x7FFF), std::vector<uint16_t>(pool_size, 0)};
  std::vector<Sequence> sequences;
  for (int i = 0; i < kThreads; i++) sequences.push_back(random_sequence(i, pool));

  std::vector<double> errors(kThreads, INFINITY);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kThreads; i++)
    threads.emplace_back([&, i] {
      try {
        errors[i] = serve(device.get(), sequences[i], pool, pool_pages);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "sequence %zu: %s\n", i, error.what());
      }
    });
  for (auto& thread : threads) thread.join();
  const double worst = *std::max_element(errors.begin(), errors.end());
  std::printf("%d threads, prompts of %d in chunks of %d, %d steps, pages of %d: largest difference %.1e\n", kThreads,
              static_cast<int>(kPrompt), static_cast<int>(kChunk), static_cast<int>(kTokens - kPrompt),
              static_cast<int>(kPage), worst);
  // Kernels sum in different orders: results near 2 may round apart by one bf16 step.
  return worst <= 1.0 / 64 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
