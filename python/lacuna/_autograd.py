"""Gradients through torch."""

from __future__ import annotations

from typing import Any

import torch

from . import _attention
from ._errors import Unsupported
from ._gradient import attention_backward

#: Arguments of `attention` that backward takes too.
_BOTH = ("plan", "causal", "window", "scale", "softcap", "layout", "dtype", "device", "stream")


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, sink: Any, arguments: dict[str, Any]) -> Any:
        out, lse = _attention.forward(q, k, v, None, None, True, sink=sink, **arguments)
        ctx.save_for_backward(q, k, v, out, lse, *([] if sink is None else [sink]))
        ctx.arguments = {name: arguments[name] for name in _BOTH}
        # The stream of the forward call; backward runs on the one that torch has current by then.
        ctx.arguments["stream"] = None
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, d_out: Any, d_lse: Any) -> Any:
        q, k, v, out, lse, *sink = ctx.saved_tensors
        if d_out is None:
            d_out = torch.zeros_like(out)
        elif d_out.stride(-1) != 1:
            # Gradients of sums come as one repeated number.
            d_out = d_out.contiguous()
        wanted = bool(sink) and ctx.needs_input_grad[3]
        given = ctx.arguments | {"sink": sink[0] if sink else None, "return_dsink": wanted, "dlse": d_lse}
        gradients = attention_backward(q, k, v, out, lse, d_out, **given)
        return *gradients[:3], gradients[3] if wanted else None, None


def attention(q: Any, k: Any, v: Any, return_lse: bool, arguments: dict[str, Any]) -> Any:
    """`lacuna.attention` as a node of torch's graph."""
    for name in ("block_table", "kv_lens"):
        if arguments[name] is not None:
            raise Unsupported(f"gradients with {name}: K and V in pages and lengths on the device have none")
    if arguments["splits"] != 1:
        raise Unsupported(f"gradients with splits: expected 1, got {arguments['splits']}")
    rest = {name: value for name, value in arguments.items() if name != "sink"}
    out, lse = _Attention.apply(q, k, v, arguments["sink"], rest)
    return (out, lse) if return_lse else out
