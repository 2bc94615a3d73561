// cvt, ex2, lg2, rcp and friends over arrays: 32-bit words in, 32-bit words out.
#include "harness.h"
#include "ptx/cvt.h"
#include "ptx/math.h"

namespace lacuna_simt {

namespace {

// target[i] = Operation(source[i]).
template <uint32_t (*kOperation)(uint32_t)>
__global__ void map(const TestParams p) {
  const int64_t step = p.blocks * p.threads;
  for (int64_t i = block_index() * p.threads + thread_index(); i < p.count; i += step) {
    target_words(p)[i] = kOperation(source_words(p)[i]);
  }
}

uint32_t to_bf16(uint32_t bits) { return from_float<BFloat16>(bits_float(bits)).bits; }
uint32_t to_f16(uint32_t bits) { return from_float<Half>(bits_float(bits)).bits; }
// The low half is the value, the high half its negation: tells which operand goes where.
uint32_t pack_bf16(uint32_t bits) { return pack<BFloat16>(bits_float(bits), -bits_float(bits)); }
uint32_t pack_f16(uint32_t bits) { return pack<Half>(bits_float(bits), -bits_float(bits)); }
uint32_t exp2_of(uint32_t bits) { return float_bits(ex2(bits_float(bits))); }
uint32_t log2_of(uint32_t bits) { return float_bits(lg2(bits_float(bits))); }
uint32_t reciprocal(uint32_t bits) { return float_bits(rcp(bits_float(bits))); }
// The larger of the value and 1, the NaN in either place.
uint32_t max_first(uint32_t bits) { return float_bits(max_float(bits_float(bits), 1.0f)); }
uint32_t max_second(uint32_t bits) { return float_bits(max_float(1.0f, bits_float(bits))); }

const TestKernel kKernels[] = {
    {"to_bf16", nullptr, start<map<to_bf16>>},       {"to_f16", nullptr, start<map<to_f16>>},
    {"pack_bf16", nullptr, start<map<pack_bf16>>},   {"pack_f16", nullptr, start<map<pack_f16>>},
    {"ex2", nullptr, start<map<exp2_of>>},           {"lg2", nullptr, start<map<log2_of>>},
    {"rcp", nullptr, start<map<reciprocal>>},        {"max_first", nullptr, start<map<max_first>>},
    {"max_second", nullptr, start<map<max_second>>},
};

}  // namespace

}  // namespace lacuna_simt

SIMT_TEST_FAMILY(simt_test_conversions, lacuna_simt::kKernels)
