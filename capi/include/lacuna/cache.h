// Keys and values in pages: page lists of other stacks, and a cache of what S2-Attention can still reach. Included by
// lacuna.h, which says the rules.
#ifndef LACUNA_CACHE_H
#define LACUNA_CACHE_H

#include "lacuna/plan.h"

#ifdef __cplusplus
extern "C" {
#endif

// Page lists one behind the other (kv_indptr, kv_indices and kv_last_page_len of FlashInfer) to what lacuna_options
// takes. All are i32 in device memory; the lists are data, and what contradicts the sizes is cut.
//   indptr         [1, 1, 1, batch + 1]: the pages of sequence b are indices[indptr[b]] to indices[indptr[b + 1] - 1]
//   indices        [1, 1, 1, any]: page ids
//   last_page_len  [1, 1, 1, batch]: keys in the last page of each sequence, 1 to page_size
//   block_table    [batch, 1, 1, pages], written: as many pages as the longest sequence may have; -1 behind the last
//   kv_lens        [1, 1, 1, batch], written: none is above kv_len, which is at most pages * page_size
// _SHAPE, _VALUE, _DEVICE, _CUDA, _SIMT.
lacuna_status lacuna_page_lists(lacuna_stream* stream, int64_t page_size, int64_t kv_len, const lacuna_tensor* indptr,
                                const lacuna_tensor* indices, const lacuna_tensor* last_page_len,
                                const lacuna_tensor* block_table, const lacuna_tensor* kv_lens);

// A cache that keeps, of each KV head, only the blocks that the pattern of an S2 plan can still reach, in pages of
// block_size keys. shape.kv_len is the most keys of a sequence, shape.q_len the most queries of a call that attends
// over the cache: 1 for decoding token by token. Attention over it gives the bits that every key kept would give.
// config may be null: the defaults.

// Device bytes of such a cache, and of all keys and values kept. _VALUE, _UNSUPPORTED.
lacuna_status lacuna_s2_cache_bytes(const lacuna_shape* shape, const lacuna_s2_config* config, size_t* bytes,
                                    size_t* full_bytes);

// Allocates it, empty. _VALUE, _UNSUPPORTED for a pattern that comes back to what it left, _OUT_OF_MEMORY.
lacuna_status lacuna_s2_cache_create(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_s2_config* config,
                                     lacuna_s2_cache** cache);

// Adds the newest tokens of each sequence.
//   k, v      [batch, kv_heads, tokens, head_dim], any strides
//   kv_lens   i32 [1, 1, 1, batch]: keys of each sequence with the new ones
//   added     i32 [1, 1, 1, batch]: how many of `tokens`, the first ones, are new to each sequence; null: all
//   queries   of the newest tokens, attend over the cache after this: what only queries before them reach is not kept.
//             0 after a prompt that attended to its own keys, at most q_len of the shape
// A sequence starts over when as many tokens are added as it has keys. _SHAPE, _VALUE, _DEVICE, _CUDA, _SIMT.
lacuna_status lacuna_s2_cache_append(lacuna_stream* stream, lacuna_s2_cache* cache, const lacuna_tensor* k,
                                     const lacuna_tensor* v, const lacuna_tensor* kv_lens, const lacuna_tensor* added,
                                     int64_t queries);

// What lacuna_decode and lacuna_forward take for calls over the first kv_len keys: k and v [pages, kv_heads,
// block_size, head_dim] (all heads are the same memory, since a page is of one head), the block table for
// lacuna_options.block_table, and block_size for its page_size. They are views of the cache, good until it is
// destroyed, whatever is appended, and to be read on the stream that appends. _VALUE for more keys than it has room
// for.
lacuna_status lacuna_s2_cache_views(lacuna_s2_cache* cache, int64_t kv_len, lacuna_tensor* k, lacuna_tensor* v,
                                    lacuna_tensor* block_table, int64_t* page_size);

lacuna_status lacuna_s2_cache_destroy(lacuna_s2_cache* cache);

#ifdef __cplusplus
}
#endif

#endif
