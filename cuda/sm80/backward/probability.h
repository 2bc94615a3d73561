// From products of q and k to P, given the row's LSE.
#pragma once

#include "common/score_rule.h"

namespace LACUNA_NS {
namespace sm80 {

// P of a score, which `transformed` has treated if the rule transforms. The difference to the LSE is taken first: its
// rounding error is small where P is not. -inf gives 0; an LSE of +inf as well.
__device__ __forceinline__ float probability(const ScoreRule& rule, float score, float lse) {
  const float exponent = rule.transform ? score - lse : fused(score, rule.scale, -lse);
  return ex2(product(exponent, kLog2E));
}

// p times the slope of the softcap at a transformed score, d(softcap * tanh(x / softcap)) / dx.
__device__ __forceinline__ float sloped(const ScoreRule& rule, float score, float p) {
  if (!(rule.softcap > 0.0f) || p == 0.0f) return p;
  const float bent = score * rcp(rule.softcap);
  return p * (1.0f - bent * bent);
}

}  // namespace sm80
}  // namespace LACUNA_NS
