// Host-side checks of gather plans.
#pragma once

#include "common/gather_rounds.h"
#include "common/validate.h"

namespace LACUNA_NS {

constexpr int kExactSamples = 64;  // exact samples fill whole tiles of the backward kernels: a tile has one weight

// What the tree of a plan is made of.
inline int32_t check_gather_shape(const lacuna_shape& s, const lacuna_gather_plan& p) {
  LACUNA_CHECK(check_shape(s));
  if (s.block_table != nullptr) return set_error(LACUNA_UNSUPPORTED, "gather plans over paged K and V");
  LACUNA_REQUIRE(s.kv_len >= 1, "a gather plan needs keys, got kv_len %d", s.kv_len);
  LACUNA_REQUIRE(p.causal == 0 || p.causal == 1, "causal must be 0 or 1, got %d", p.causal);
  LACUNA_REQUIRE(p.rounds >= 1 && p.rounds <= kMaxRounds, "rounds must be in 1..=%d, got %d", kMaxRounds, p.rounds);
  if (p.causal == 0) return LACUNA_OK;
  LACUNA_REQUIRE(s.q_len == s.kv_len, "a causal gather plan needs q_len == kv_len, got %d and %d", s.q_len, s.kv_len);
  LACUNA_REQUIRE(p.min_seq_len >= 1 && has_halves(s.q_len, p.min_seq_len),
                 "min_seq_len must be in 1..=q_len / 2 (%d) for a causal gather plan (a dense plan serves shorter "
                 "calls), got %d",
                 s.q_len / 2, p.min_seq_len);
  return LACUNA_OK;
}

// After check_gather_shape.
inline int32_t check_gather_plan(const lacuna_gather_plan& p, const lacuna_shape& s) {
  constexpr int kMax = 1 << 30;
  const int levels = gather_levels(p, s.q_len);
  LACUNA_REQUIRE(p.levels == levels, "levels must be %d for this call, got %d", levels, p.levels);
  LACUNA_REQUIRE(p.block_size >= 1 && p.block_size <= kMax, "block_size must be in 1..=2^30, got %d", p.block_size);
  LACUNA_REQUIRE(p.samples >= 0 && p.samples <= kMax, "samples must be in 0..=2^30, got %d", p.samples);
  LACUNA_REQUIRE(p.exact >= 0 && p.exact <= p.samples && p.exact % kExactSamples == 0,
                 "exact must be a multiple of %d in 0..=samples (%d), got %d", kExactSamples, p.samples, p.exact);
  const int most_local = p.causal != 0 ? p.min_seq_len : 0;
  LACUNA_REQUIRE(p.local >= 0 && p.local <= most_local,
                 "local must be in 0..=%d (min_seq_len when causal, otherwise 0), got %d", most_local, p.local);
  const int64_t windows = p.windows != nullptr ? windows_of_head(s, p, levels) : 0;
  LACUNA_REQUIRE(p.windows_of_head == windows, "windows_of_head must be %lld for this call, got %d",
                 static_cast<long long>(windows), p.windows_of_head);
  LACUNA_REQUIRE(p.q_order != nullptr && p.k_order != nullptr, "q_order or k_order is null");
  LACUNA_REQUIRE(p.rounds == 1 || (p.k_places != nullptr && p.q_starts != nullptr), "k_places or q_starts is null");
  LACUNA_REQUIRE(p.samples == 0 || (p.sample_places != nullptr && p.sample_rows != nullptr),
                 "sample_places or sample_rows is null");
  return LACUNA_OK;
}

}  // namespace LACUNA_NS
