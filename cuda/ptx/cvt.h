// cvt.rn: f32 to f16 and bf16, round to nearest even, NaN to the canonical NaN; and back.
#pragma once

#include "ptx/machine.h"
#if LACUNA_SIMT
#include "simt/widen.h"
#include <string.h>
#endif

namespace LACUNA_NS {

#if LACUNA_SIMT

inline uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

inline float bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline uint16_t round_bits(float value, BFloat16) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

inline uint16_t round_bits(float value, Half) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or beyond
  if (magnitude < 0x38800000u) {
    // Subnormal or zero: adding 0.5 aligns the last kept bit with the unit of the sum, which rounds it to even.
    return static_cast<uint16_t>(sign | (float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

#else

__device__ __forceinline__ uint32_t float_bits(float value) { return __float_as_uint(value); }

__device__ __forceinline__ float bits_float(uint32_t bits) { return __uint_as_float(bits); }

#endif

// One value.
template <class T>
__device__ __forceinline__ T from_float(float value) {
#if LACUNA_SIMT
  return T{round_bits(value, T{})};
#else
  T result;
  if constexpr (IsBFloat16<T>::kValue) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  } else {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  }
  return result;
#endif
}

// The same value.
template <class T>
__device__ __forceinline__ float to_float(T value) {
#if LACUNA_SIMT
  return widen<IsBFloat16<T>::kValue>(value.bits);
#else
  float result;
  if constexpr (IsBFloat16<T>::kValue) {
    result = __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
  } else {
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  }
  return result;
#endif
}

// Two values in one register: `low` in bits 0-15.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
#if LACUNA_SIMT
  return round_bits(low, T{}) | static_cast<uint32_t>(round_bits(high, T{})) << 16;
#else
  uint32_t result;
  if constexpr (IsBFloat16<T>::kValue) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  }
  return result;
#endif
}

}  // namespace LACUNA_NS
