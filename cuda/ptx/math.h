// ex2.approx.ftz.f32 (2 ulp), lg2.approx.ftz.f32, rcp.approx.ftz.f32 (1 ulp). The SIMT host computes them with own
// polynomials, so that results do not depend on a libm.
#pragma once

#include "ptx/cvt.h"

namespace LACUNA_NS {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// 2^x; ex2(-inf) = +0.
__device__ __forceinline__ float ex2(float x) {
#if LACUNA_SIMT
  if (!(x >= -126.0f)) return x != x ? x : 0.0f;  // results below 2^-126 flush to zero
  if (x >= 128.0f) return bits_float(0x7f800000u);
  const float shifted = x + 12582912.0f;  // 1.5 * 2^23: the sum's low bits hold the nearest integer
  const float integer = shifted - 12582912.0f;
  const float f = x - integer;  // in [-0.5, 0.5]
  // Interpolates 2^f at Chebyshev nodes, relative error 2.6e-9.
  float p = 1.546144469646172e-4f;
  p = p * f + 1.3400428177419153e-3f;
  p = p * f + 9.61805667852609e-3f;
  p = p * f + 5.550327226670944e-2f;
  p = p * f + 2.4022650922288827e-1f;
  p = p * f + 6.931472067028321e-1f;
  p = p * f + 1.0f;
  const int exponent = static_cast<int>(integer);
  if (exponent == 128) return p * 2.0f * bits_float(0x7f000000u);  // p < 1 here
  return p * bits_float(static_cast<uint32_t>(exponent + 127) << 23);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// log2(x) for x >= 0; lg2(0) = -inf.
__device__ __forceinline__ float lg2(float x) {
#if LACUNA_SIMT
  const uint32_t bits = float_bits(x);
  if (bits < 0x00800000u || bits == 0x80000000u) return bits_float(0xff800000u);  // zero and flushed subnormals
  if (bits >= 0x7f800000u) return bits == 0x7f800000u ? x : bits_float(0x7fffffffu);
  int exponent = static_cast<int>(bits >> 23) - 127;
  double mantissa = bits_float((bits & 0x7fffffu) | 0x3f800000u);
  if (mantissa > 1.4142135623730951) {
    mantissa *= 0.5;
    ++exponent;
  }
  // ln m = 2 artanh s with s = (m - 1) / (m + 1), |s| <= 0.172.
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double s2 = s * s;
  double series = 1.0 / 13.0;
  series = series * s2 + 1.0 / 11.0;
  series = series * s2 + 1.0 / 9.0;
  series = series * s2 + 1.0 / 7.0;
  series = series * s2 + 1.0 / 5.0;
  series = series * s2 + 1.0 / 3.0;
  series = series * s2 + 1.0;
  return static_cast<float>(exponent + 2.0 * s * series * 1.4426950408889634);
#else
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// 1 / x.
__device__ __forceinline__ float rcp(float x) {
#if LACUNA_SIMT
  return 1.0f / x;
#else
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// The square root, correctly rounded.
__device__ __forceinline__ float square_root(float x) {
#if LACUNA_SIMT
  return __builtin_sqrtf(x);
#else
  return __fsqrt_rn(x);
#endif
}

// tanh(x), relative error below 4e-7 everywhere: near zero 1 - 2 / (1 + e^2x) would cancel, so a Taylor series serves
// there (tanh.approx has an error of 2^-11, too much for a logit).
__device__ __forceinline__ float tanh_exact(float x) {
  const float square = x * x;
  if (square < 0.25f) {
    float series = 21844.0f / 6081075.0f;
    series = series * square - 1382.0f / 155925.0f;
    series = series * square + 62.0f / 2835.0f;
    series = series * square - 17.0f / 315.0f;
    series = series * square + 2.0f / 15.0f;
    series = series * square - 1.0f / 3.0f;
    return x + x * square * series;
  }
  return 1.0f - 2.0f * rcp(1.0f + ex2(2.8853900817779268f * x));
}

// a * b, rounded: never fused with what follows.
__device__ __forceinline__ float product(float a, float b) {
#if LACUNA_SIMT
  return a * b;
#else
  return __fmul_rn(a, b);
#endif
}

// a * b + c, rounded once.
__device__ __forceinline__ float fused(float a, float b, float c) {
#if LACUNA_SIMT
  return __builtin_fmaf(a, b, c);
#else
  return fmaf(a, b, c);
#endif
}

// The larger of two; a NaN loses against a number.
__device__ __forceinline__ float max_float(float a, float b) {
#if LACUNA_SIMT
  if (a != a) return b;
  return a < b ? b : a;
#else
  return fmaxf(a, b);
#endif
}

__device__ __forceinline__ float minus_infinity() {
#if LACUNA_SIMT
  return bits_float(0xff800000u);
#else
  return __int_as_float(static_cast<int>(0xff800000u));
#endif
}

}  // namespace LACUNA_NS
