// A subset of the SIMT host's tests without Rust, for machines that are only emulated here (tools/test-aarch64.sh).
// Prints a line for each failure, then "golden" and a hash of all outputs, which must be the same on every machine.
#include <stdio.h>
#include <string.h>

#include <string>
#include <vector>

#include "forward_case.h"
#include "harness.h"

extern "C" {
int32_t simt_test_barriers(const char* name, int32_t planted, const simt_test_params* params, void* stream);
int32_t simt_test_copies(const char* name, int32_t planted, const simt_test_params* params, void* stream);
int32_t simt_test_memory(const char* name, int32_t planted, const simt_test_params* params, void* stream);
int32_t simt_test_matrix(const char* name, int32_t planted, const simt_test_params* params, void* stream);
int32_t simt_test_conversions(const char* name, int32_t planted, const simt_test_params* params, void* stream);
}

namespace {

int failures = 0;
uint64_t golden = 0xcbf29ce484222325u;

void expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  printf("FAILED: %s\n", what.c_str());
}

void add_to_golden(const void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) golden = (golden ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
}

lacuna_simt_config config_of(int policy, int async_mode, uint64_t seed) {
  lacuna_simt_config config;
  lacuna_simt_default_config(&config);
  config.policy = policy;
  config.async_mode = async_mode;
  config.seed = seed;
  config.threads = 1 + static_cast<int>(seed % 2);
  config.checks = 1;
  return config;
}

void test_forward(const simt_forward_case& problem, double out_limit) {
  const size_t rows = static_cast<size_t>(problem.q_heads) * static_cast<size_t>(problem.q_len);
  std::vector<uint16_t> first_out;
  std::vector<float> first_lse;
  for (int policy = 0; policy < 4; ++policy) {
    for (int mode = 0; mode < 3; ++mode) {
      const lacuna_simt_config config = config_of(policy, mode, static_cast<uint64_t>(3 * policy + mode));
      lacuna_simt_stream* const stream = lacuna_simt_stream_create(&config);
      std::vector<uint16_t> out(rows * static_cast<size_t>(problem.head_dim));
      std::vector<float> lse(rows);
      const int32_t status = simt_forward_run(&problem, stream, out.data(), lse.data());
      lacuna_simt_stream_destroy(stream);
      const std::string name = "forward, family " + std::to_string(problem.family) + ", head_dim " +
                               std::to_string(problem.head_dim) + ", policy " + std::to_string(policy) +
                               ", async mode " + std::to_string(mode);
      expect(status == LACUNA_OK, name + ": " + lacuna_simt_kernels()->last_error());
      if (first_out.empty()) {
        double out_error = 1, lse_error = 1;
        simt_forward_compare(&problem, out.data(), lse.data(), &out_error, &lse_error);
        expect(out_error < out_limit && lse_error < 1e-5,
               name + " is wrong: out " + std::to_string(out_error) + ", lse " + std::to_string(lse_error));
        first_out = out;
        first_lse = lse;
      }
      expect(memcmp(out.data(), first_out.data(), out.size() * 2) == 0 &&
                 memcmp(lse.data(), first_lse.data(), lse.size() * 4) == 0,
             name + ": other bits than under the first schedule");
    }
  }
  const uint64_t hash = simt_forward_hash(&problem, first_out.data(), first_lse.data());
  add_to_golden(&hash, sizeof hash);
}

using Family = int32_t (*)(const char*, int32_t, const simt_test_params*, void*);

// Runs the planted twin, whose message must have `part` ("": it gives poison), then the correct one.
void test_planted(Family family, const char* name, int64_t variant, const char* part) {
  for (int policy = 0; policy < 4; ++policy) {
    for (int planted = 1; planted >= 0; --planted) {
      const size_t words = 64;
      const lacuna_simt_config config = config_of(policy, LACUNA_SIMT_LATE, 2);
      lacuna_simt_stream* const stream = lacuna_simt_stream_create(&config);
      uint32_t* const source = static_cast<uint32_t*>(lacuna_simt_alloc(words * 16, variant < 0 ? 2 : 1));
      uint32_t* const target = static_cast<uint32_t*>(lacuna_simt_alloc(words * 4, variant < 0 ? 2 : 1));
      for (uint32_t i = 0; i < 4 * words; ++i) source[i] = i;
      simt_test_params params = {source, target, 64, variant, 2, 64, 12288};
      if (family == simt_test_barriers) params.count = 1;
      if (strcmp(name, "load_outside") == 0 && variant > 0) params.source = source + 3 * words;  // the end is a page's
      const int32_t status = family(name, planted, &params, stream);
      const std::string message = status == LACUNA_OK ? "" : lacuna_simt_kernels()->last_error();
      const std::string label = std::string(name) + ", policy " + std::to_string(policy) + ": ";
      if (planted == 0) {
        expect(status == LACUNA_OK, label + "false alarm: " + message);
      } else if (part[0] != 0) {
        expect(message.find(part) != std::string::npos, label + "expected \"" + part + "\" in \"" + message + "\"");
      } else {
        bool poison = false;
        for (size_t i = 0; i < words; ++i) poison |= target[i] == 0xfffffffcu;
        expect(status == LACUNA_OK && poison, label + "not caught " + message);
      }
      lacuna_simt_free(source);
      lacuna_simt_free(target);
      lacuna_simt_stream_destroy(stream);
    }
  }
}

// exp2, log2 and the conversions over many values.
void test_conversions() {
  lacuna_simt_config config = config_of(0, 0, 0);
  config.checks = 0;
  lacuna_simt_stream* const stream = lacuna_simt_stream_create(&config);
  const int64_t count = 1 << 16;
  std::vector<uint32_t> source(static_cast<size_t>(count)), target(static_cast<size_t>(count));
  for (uint32_t i = 0; i < source.size(); ++i) source[i] = i * 65537u;
  for (const char* name : {"to_bf16", "to_f16", "ex2", "lg2", "rcp"}) {
    const simt_test_params params = {source.data(), target.data(), count, 0, 4, 64, 0};
    expect(simt_test_conversions(name, 0, &params, stream) == LACUNA_OK, name);
    for (uint32_t& word : target) {
      if ((word & 0x7fffffffu) > 0x7f800000u) word = 0x7fffffffu;  // machines differ in which NaN arithmetic gives
    }
    add_to_golden(target.data(), target.size() * 4);
  }
  lacuna_simt_stream_destroy(stream);
}

}  // namespace

int main() {
  for (const int32_t family : {LACUNA_FAMILY_PORTABLE, LACUNA_FAMILY_HOPPER}) {
    //            heads  lengths   dim  dtype       causal guard
    test_forward({2, 1, 100, 130, 64, LACUNA_BF16, 1, 1, family}, 5e-3);
    test_forward({2, 2, 65, 97, 128, LACUNA_F16, 0, 1, family}, 7e-4);
  }
  test_conversions();
  test_planted(simt_test_barriers, "no_barrier_after_copy", 0, "");
  test_planted(simt_test_barriers, "part_of_a_warp", 0, "deadlock: block 0:");
  test_planted(simt_test_copies, "exit_without_wait", 0, "never waited for");
  test_planted(simt_test_memory, "load_outside", 1, "0 bytes past the end of a buffer of 1024 bytes");
  test_planted(simt_test_memory, "load_outside", -1, "4 bytes before the start of a buffer of 1024 bytes");
  test_planted(simt_test_memory, "stack_overflow", 0, "stack overflow");
  test_planted(simt_test_memory, "stack_overflow", 1, "stack overflow");
  test_planted(simt_test_matrix, "load_address", 0, "is not 16-byte aligned");
  printf("golden %016llx\n", static_cast<unsigned long long>(golden));
  return failures == 0 ? 0 : 1;
}
