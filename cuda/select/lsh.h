// The steps of hyper_plan: means, hash, sort, windows, rounds, shares, samples. Each is a file of its own;
// select/hyper_plan.cu checks the request and runs them in order.
#pragma once

#include "common/gather_tree.h"
#include "lacuna_kernels.h"

namespace LACUNA_NS {
namespace lsh {

constexpr int kMeanRows = 512;    // rows that a block sums up
constexpr int kShareRows = 1024;  // rows whose shares a block finds
constexpr int kChunkRows = 2048;  // rows that a block sorts
constexpr int kMostBits = 8;      // of a radix pass
constexpr int kMostBuckets = 1 << kMostBits;
constexpr int kMostProjections = 16;
constexpr int kMostHeadDim = 256;

// Sequences and heads of q or k, and how a pass of the sort cuts them into chunks: level l has 2^l pairs of
// chunks[l] chunks each, as far as the longest of them needs.
struct Side {
  int64_t heads;  // batch * heads
  int len;
  int chunks[kMaxGatherLevels];
  int64_t first_chunk[kMaxGatherLevels + 1];  // of a level; the last one is the number of chunks of a head
};

// What a plan needs beside its results, in elements.
struct Scratch {
  Side q;
  Side k;
  int passes;        // of the sort
  int bits;          // of a pass
  float* sums;       // [heads of q, ceil(q_len / kMeanRows), head_dim], then those of k
  float* means;      // [heads of q, head_dim], then those of k
  int32_t* counts;   // [heads of q, chunks, buckets], then those of k
  int32_t* q_spare;  // as q_order: the order between two passes
  int32_t* k_spare;  // as k_order
  // Samples drawn by values; of rows of v.
  float* norms;         // [heads of k, kv_len] squared
  float* most;          // [heads of k, ceil(kv_len / kShareRows)] the largest norm of these rows
  int64_t* share_sums;  // as most: their shares
  int64_t* share_ends;  // [heads of k, kv_len] shares up to each row and with it
};

inline bool draws_by_values(const lacuna_hyper_plan_params& p) {
  return p.draw != 0 && p.sampling == LACUNA_SAMPLING_VALUES && p.plan.samples > p.plan.exact;
}

int32_t launch_means(const lacuna_hyper_plan_params& params, const Scratch& scratch, void* stream);
int32_t launch_hash(const lacuna_hyper_plan_params& params, const Scratch& scratch, void* stream);
int32_t launch_sort(const lacuna_hyper_plan_params& params, const Scratch& scratch, void* stream);
int32_t launch_windows(const lacuna_hyper_plan_params& params, void* stream);
int32_t launch_rounds(const lacuna_hyper_plan_params& params, void* stream);
int32_t launch_shares(const lacuna_hyper_plan_params& params, const Scratch& scratch, void* stream);
int32_t launch_samples(const lacuna_hyper_plan_params& params, const Scratch& scratch, void* stream);

}  // namespace lsh
}  // namespace LACUNA_NS
