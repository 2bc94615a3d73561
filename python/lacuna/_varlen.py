"""Attention of packed sequences."""

from __future__ import annotations

from typing import Any

from . import _arrays
from ._arrays import Array, is_torch, view
from ._attention import Tensors, options_of, run, writable
from ._device import Device
from ._errors import InvalidArgument, Unsupported
from ._request import Shape, integer
from .hyper import Hyper
from .plans import Planner


class _Packed(Tensors):
    """q, and perhaps k and v, as [tokens, heads, dim]."""

    def seen(self, what: str, given: Any, raw: int | None = None) -> Array:
        array = view(what, given, self.dtype, raw)
        if len(array.shape) == 3:
            array.shape, array.strides = (1, *array.shape), (0, *array.strides)
        elif len(array.shape) != 4 or what in ("q", "out"):
            raise InvalidArgument(f"{what}: expected [tokens, heads, dim], got {list(array.shape)}")
        return array.permuted((0, 2, 1, 3))


def attention_varlen(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any = None,
    *,
    max_seqlen_q: int,
    max_seqlen_k: int,
    kv_lens: Any = None,
    block_table: Any = None,
    page_size: int | None = None,
    plan: Planner | None = None,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Any = None,
    family: str = "auto",
    dtype: str | None = None,
    out: Any = None,
    return_lse: bool = False,
    device: Device | str | None = None,
    stream: Any = None,
) -> Any:
    """Attention of sequences of different lengths, packed one behind the other. A sequence's bits are those of a call of
    its own.

    Args:
        q: [tokens, q_heads, head_dim]; those of sequence b are rows cu_seqlens_q[b] to cu_seqlens_q[b + 1] - 1.
        k, v: [tokens, kv_heads, head_dim] with `cu_seqlens_k`; or with `kv_lens` padded [batch, max_seqlen_k, kv_heads,
            head_dim], or with `block_table` too, pages [pages, page_size, kv_heads, head_dim].
        cu_seqlens_q, cu_seqlens_k: i32 [batch + 1], on the device of q. They are data: what contradicts sizes is cut.
        kv_lens: i32 [batch], keys of each sequence.
        max_seqlen_q, max_seqlen_k: the longest that a sequence may be. Plans are made for them: row i of a list is query
            block i of each sequence.

    The rest as for `attention`. LSE is [q_heads, tokens]. Rows of no sequence are 0 in a new output.
    """
    tensors = _Packed(q, k, v, "bshd", dtype, device, stream)
    given = options_of(
        tensors.q,
        causal,
        window,
        scale,
        softcap,
        sink,
        1,
        family,
        block_table,
        page_size,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        kv_lens=kv_lens,
    )
    if any(is_torch(array) and array.requires_grad for array in (q, k, v)):
        raise Unsupported("gradients of attention_varlen: use attention, or detach the tensors")
    if isinstance(plan, Hyper):
        raise InvalidArgument("plan: HyperAttention has no packed sequences; use another planner")
    if (cu_seqlens_k is None) == (kv_lens is None):
        raise InvalidArgument("expected either cu_seqlens_k or kv_lens")
    starts = given.cu_seqlens_q
    if starts is None or len(starts.shape) != 1 or starts.shape[0] == 0:
        raise InvalidArgument("cu_seqlens_q: expected a vector of batch + 1 starts")
    lengths = integer("max_seqlen_q", max_seqlen_q), integer("max_seqlen_k", max_seqlen_k)
    _, q_heads, tokens, head_dim = tensors.q.shape
    shape = Shape(starts.shape[0] - 1, q_heads, tensors.k.shape[1], *lengths, head_dim, tensors.q.dtype)
    if out is None:
        out = _arrays.zeros(q, (tokens, q_heads, head_dim))
    lse = _arrays.zeros(q, (q_heads, tokens), "f32") if return_lse else None
    lse_array = None
    if lse is not None:
        lse_array = view("lse", lse)
        lse_array.shape, lse_array.strides = (1, *lse_array.shape, 1), (0, *lse_array.strides, 1)
    run(tensors, plan, shape, given, writable("out", tensors.seen("out", out)), lse_array)
    return (out, lse) if return_lse else out
