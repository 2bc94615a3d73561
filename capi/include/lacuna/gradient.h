// Gradients of attention. Included by lacuna.h, which says the rules.
#ifndef LACUNA_GRADIENT_H
#define LACUNA_GRADIENT_H

#include "lacuna/attention.h"
#include "lacuna/hyper.h"

#ifdef __cplusplus
extern "C" {
#endif

// Who attends each tile of 64 keys, for the gradients of K and V: what a schedule is for those of Q. One serves many
// calls of the same plan, shape and options. _VALUE, _SHAPE, _DEVICE, _UNSUPPORTED, _NO_KERNEL, _OUT_OF_MEMORY.
lacuna_status lacuna_columns_create(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_options* options,
                                    lacuna_plan* plan, lacuna_columns** columns);

// Again, after the plan's lists changed. _VALUE for another plan than the one it was made of.
lacuna_status lacuna_columns_rebuild(lacuna_stream* stream, lacuna_columns* columns, lacuna_plan* plan);

lacuna_status lacuna_columns_destroy(lacuna_columns* columns);

// The tensors of a backward call. Types are those of the forward call; any strides.
typedef struct lacuna_gradients {
  uint32_t struct_size;
  int32_t reserved;
  const lacuna_tensor* q;      // [batch, q_heads, q_len, head_dim]
  const lacuna_tensor* k;      // [batch, kv_heads, kv_len, head_dim]
  const lacuna_tensor* v;      // as k
  const lacuna_tensor* out;    // what forward gave, as q
  const lacuna_tensor* lse;    // what it gave beside it, f32 [batch, q_heads, q_len, 1]
  const lacuna_tensor* dout;   // the gradient of out, as q
  const lacuna_tensor* dlse;   // the gradient of lse, as lse; or null: zeros
  const lacuna_tensor* dq;     // written, as q
  const lacuna_tensor* dk;     // written, as k: the sum over the query heads of each KV head
  const lacuna_tensor* dv;     // written, as k
  const lacuna_tensor* dsink;  // written, f32 [1, 1, 1, q_heads], packed: of lacuna_options.sink; or null
} lacuna_gradients;

lacuna_status lacuna_gradients_init(lacuna_gradients* gradients, size_t size);

// Bytes of workspace that lacuna_backward needs. _VALUE, _SHAPE, _UNSUPPORTED, _NO_KERNEL.
lacuna_status lacuna_backward_workspace(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_options* options,
                                        lacuna_plan* plan, size_t* bytes);

// The gradients of lacuna_forward: of sum(dout * out) + sum(dlse * lse) with respect to q, k, v and the sink. The plan
// is taken as given. Rows whose lse is -inf give nothing, keys that nobody attends get zeros. The same inputs give the
// same bits. Pages and sequences of different lengths have no gradient.
//   options    those of the forward call, splits 0 or 1
//   schedule   that of the forward call; may be null for a plan without lists
//   columns    of this plan, shape and options
//   workspace  as for lacuna_forward
// Errors as lacuna_forward.
lacuna_status lacuna_backward(lacuna_stream* stream, const lacuna_shape* shape, const lacuna_options* options,
                              lacuna_plan* plan, lacuna_schedule* schedule, lacuna_columns* columns,
                              const lacuna_gradients* gradients, void* workspace, size_t workspace_bytes);

// Bytes of workspace that lacuna_hyper_backward needs.
lacuna_status lacuna_hyper_backward_workspace(lacuna_stream* stream, lacuna_hyper* hyper, size_t* bytes);

// The gradients of lacuna_hyper_forward over the rows and samples of the last update: exact for the estimator, hash and
// samples taken as given. gradients.dsink is null. Errors as lacuna_hyper_forward.
lacuna_status lacuna_hyper_backward(lacuna_stream* stream, lacuna_hyper* hyper, const lacuna_gradients* gradients,
                                    void* workspace, size_t workspace_bytes);

#ifdef __cplusplus
}
#endif

#endif
