// How products of q and k become scores.
#pragma once

#include "common/row_result.h"
#include "lacuna_kernels.h"
#include "ptx/math.h"

namespace LACUNA_NS {

// scores * factor are logits in log2 units, factor > 0.
struct ScoreRule {
  float scale;    // applied to the product when `transform`
  float softcap;  // > 0: capped
  bool transform;
  float factor;
};

// Without a cap and with a positive scale the multiplication is folded into the exponential.
__host__ __device__ __forceinline__ bool needs_transform(const lacuna_forward_params& p) {
  return p.softcap > 0.0f || !(p.scale > 0.0f);
}

__device__ __forceinline__ ScoreRule score_rule(const lacuna_forward_params& p) {
  const bool transform = needs_transform(p);
  return ScoreRule{p.scale, p.softcap, transform, transform ? kLog2E : p.scale * kLog2E};
}

__device__ __forceinline__ float transformed(const ScoreRule& rule, float product) {
  const float logit = product * rule.scale;
  if (!(rule.softcap > 0.0f)) return logit;
  return rule.softcap * tanh_exact(logit * rcp(rule.softcap));
}

}  // namespace LACUNA_NS
