// HyperAttention: exact attention inside hash blocks, samples for the rest. Included by lacuna.h, which says the rules.
#ifndef LACUNA_HYPER_H
#define LACUNA_HYPER_H

#include "lacuna/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lacuna_hyper_config {
  uint32_t struct_size;
  int32_t center;           // 1: hash x - mean in place of x
  int64_t num_projections;  // 7: hyperplanes of the hash, 1 to 16
  int64_t block_size;       // 256: keys of a block of the sorted order
  int64_t sample_size;      // 256: keys drawn for each KV head; 0: none
  int64_t min_seq_len;      // 4096: shorter calls and pieces are exact
  uint64_t seed;            // 0: of projections and samples that are not given
  int32_t compat_buckets;   // 0: buckets in Gray order; 1: in the order of the published code
  int32_t sampling;         // samples are drawn: 0: with replacement; 1: without; 2: one in each of equal parts;
                            // 3: by the squared norms of the rows of v, for lacuna_hyper_update_with_values
  int64_t sinks;            // 0: so many first keys are attended exactly
  int64_t local_window;     // 0: at least so many of the newest keys are; 0..min_seq_len, causal calls alone
  int32_t align_windows;    // 0; 1: keys of a query block are those around the buckets of its queries
  int32_t rounds;           // 1: hashes with projections of their own, 1 to 8; their blocks together, each key once
} lacuna_hyper_config;

lacuna_status lacuna_hyper_config_init(lacuna_hyper_config* config, size_t size);

// The memory of HyperAttention for one shape. Options: the causal flag and a scale, nothing else. config may be null.
// _VALUE, _UNSUPPORTED (other options; causal with more keys than queries, unless exact; local_window and not causal),
// _NO_KERNEL, _OUT_OF_MEMORY.
lacuna_status lacuna_hyper_create(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_options* options,
                                  const lacuna_hyper_config* config, lacuna_hyper** hyper);

// Hashes with these projections, f32 [1, rounds, head_dim, num_projections], packed, in device memory that stays the
// caller's and must outlive the object. The next update uses them. _SHAPE, _DEVICE.
lacuna_status lacuna_hyper_set_projections(lacuna_stream* stream, lacuna_hyper* hyper,
                                           const lacuna_tensor* projections);

// Attends these samples, i32 [1, batch, kv_heads, sample_size], packed, places in the keys as the first round
// sorts them; memory as for projections. _SHAPE, _DEVICE, _VALUE for a causal call, which draws for each of its halves.
lacuna_status lacuna_hyper_set_samples(lacuna_stream* stream, lacuna_hyper* hyper, const lacuna_tensor* samples);

// Hashes and sorts the rows of q [batch, q_heads, q_len, head_dim] and k [batch, kv_heads, kv_len, head_dim], any
// strides, and draws samples. _SHAPE, _VALUE (also where samples are drawn by values), _DEVICE, _CUDA, _SIMT.
lacuna_status lacuna_hyper_update(lacuna_stream* stream, lacuna_hyper* hyper, const lacuna_tensor* q,
                                  const lacuna_tensor* k);

// The same for any sampling; v is as k, and read where samples are drawn by values.
lacuna_status lacuna_hyper_update_with_values(lacuna_stream* stream, lacuna_hyper* hyper, const lacuna_tensor* q,
                                              const lacuna_tensor* k, const lacuna_tensor* v);

// 1 when the call is so short that every key is attended.
lacuna_status lacuna_hyper_is_exact(lacuna_hyper* hyper, int32_t* exact);

// Bytes of workspace that lacuna_hyper_forward needs.
lacuna_status lacuna_hyper_workspace(lacuna_hyper* hyper, size_t* bytes);

// Attention by the rows and samples of the last update, which was given the same q and k. Tensors and workspace as for
// lacuna_forward. _SHAPE, _VALUE (also before the first update), _DEVICE, _CUDA, _SIMT.
lacuna_status lacuna_hyper_forward(lacuna_stream* stream, lacuna_hyper* hyper, const lacuna_tensor* q,
                                   const lacuna_tensor* k, const lacuna_tensor* v, const lacuna_tensor* out,
                                   const lacuna_tensor* lse, void* workspace, size_t workspace_bytes);

lacuna_status lacuna_hyper_destroy(lacuna_hyper* hyper);

#ifdef __cplusplus
}
#endif

#endif
