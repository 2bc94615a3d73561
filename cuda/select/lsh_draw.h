// How a pair's samples are drawn: places among its sorted keys, each a function of the seed, the pair, the KV head and
// the sample's number alone. src/methods/hyper/sampling.rs is the same on the host.
#pragma once

#include "common/philox.h"
#include "lacuna_kernels.h"

namespace LACUNA_NS {
namespace lsh {

constexpr uint32_t kFeistelRounds = 8;

// What the draws of a pair have in common.
struct Draw {
  uint64_t seed;
  uint32_t head;  // KV head of its sequence
  uint32_t node;
  uint32_t keys;  // >= 1
  uint32_t samples;
};

__device__ __forceinline__ uint32_t sample_word(const Draw& draw, uint32_t i) {
  return philox_word(i, draw.head, draw.node, kPhiloxSamples, draw.seed);
}

__device__ __forceinline__ uint32_t draw_uniform(const Draw& draw, uint32_t i) {
  return static_cast<uint32_t>(static_cast<uint64_t>(sample_word(draw, i)) * draw.keys >> 32);
}

// Every key once, then every key once more, and so on: a permutation of the keys, shifted by a number of its own. The
// permutation is a Feistel network over the bits of keys - 1, walked until it lands on a key, which it does at i itself
// at the latest. Only the shift makes every place equally likely; the permutation keeps the samples apart.
__device__ __forceinline__ uint32_t draw_distinct(const Draw& draw, uint32_t i) {
  int bits = 0;
#pragma unroll 1
  while ((draw.keys - 1) >> bits != 0) ++bits;
  const int low_bits = bits / 2;
  const uint32_t low_mask = (1u << low_bits) - 1;
  const uint32_t high_mask = (1u << (bits - low_bits)) - 1;
  uint32_t place = i % draw.keys;
#pragma unroll 1
  do {
    uint32_t low = place & low_mask;
    uint32_t high = place >> low_bits;
#pragma unroll 1
    for (uint32_t round = 0; round < kFeistelRounds; round += 2) {
      high ^= philox_word(low | round << 16, draw.head, draw.node, kPhiloxPermutation, draw.seed) & high_mask;
      low ^= philox_word(high | (round + 1) << 16, draw.head, draw.node, kPhiloxPermutation, draw.seed) & low_mask;
    }
    place = high << low_bits | low;
  } while (place >= draw.keys);
  const uint32_t shifted = place + draw_uniform(draw, 0);
  return shifted < draw.keys ? shifted : shifted - draw.keys;
}

// floor((i + x0 / 2^32) * keys / samples). i * keys is divided first, so that 64 bits hold everything.
__device__ __forceinline__ uint32_t draw_stratified(const Draw& draw, uint32_t i) {
  const uint64_t before = static_cast<uint64_t>(i) * draw.keys;
  const uint64_t rest = (before % draw.samples << 32) + static_cast<uint64_t>(sample_word(draw, i)) * draw.keys;
  return static_cast<uint32_t>(before / draw.samples + rest / (static_cast<uint64_t>(draw.samples) << 32));
}

// The sample's place among `total` shares: floor(f * total / 2^64), f being floor((i * 2^32 + x0) * 2^32 / samples).
__device__ __forceinline__ int64_t draw_share(const Draw& draw, uint32_t i, int64_t total) {
  const uint64_t along = static_cast<uint64_t>(i) << 32 | sample_word(draw, i);
  const uint64_t high = along / draw.samples;
  const uint64_t low = ((along % draw.samples) << 32) / draw.samples;
  const uint64_t total_high = static_cast<uint64_t>(total) >> 32;
  const uint64_t total_low = static_cast<uint32_t>(total);
  const uint64_t middle = high * total_low + (low * total_low >> 32);
  const uint64_t rest = static_cast<uint32_t>(middle) + low * total_high;
  return static_cast<int64_t>(high * total_high + (middle >> 32) + (rest >> 32));
}

__device__ __forceinline__ int32_t draw_place(const Draw& draw, int32_t sampling, uint32_t i) {
  switch (sampling) {
    case LACUNA_SAMPLING_DISTINCT:
      return static_cast<int32_t>(draw_distinct(draw, i));
    case LACUNA_SAMPLING_STRATIFIED:
      return static_cast<int32_t>(draw_stratified(draw, i));
    default:
      return static_cast<int32_t>(draw_uniform(draw, i));
  }
}

}  // namespace lsh
}  // namespace LACUNA_NS
