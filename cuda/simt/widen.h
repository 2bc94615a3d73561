// 16-bit floats to f32, exactly, in bit arithmetic that compilers vectorise.
#pragma once

#include <stdint.h>
#include <string.h>

namespace lacuna_simt {

inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// All three cases are computed and one is masked in: compilers vectorise no branches. No arithmetic on subnormals.
inline float widen_half(uint32_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t normal = (magnitude << 13) + (112u << 23);  // the exponent moves from 5 to 8 bits
  const float multiple = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  uint32_t subnormal;
  memcpy(&subnormal, &multiple, 4);
  const uint32_t special = (magnitude << 13) | 0x7f800000u;
  const uint32_t is_subnormal = 0u - static_cast<uint32_t>(magnitude < 0x400u);
  const uint32_t is_special = 0u - static_cast<uint32_t>(magnitude >= 0x7c00u);
  const uint32_t bits = (subnormal & is_subnormal) | (special & is_special) | (normal & ~(is_subnormal | is_special));
  return bits_to_float(bits | (half & 0x8000u) << 16);
}

template <bool kBFloat16>
inline float widen(uint32_t bits) {
  return kBFloat16 ? bits_to_float(bits << 16) : widen_half(bits);
}

}  // namespace lacuna_simt
