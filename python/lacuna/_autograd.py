"""Gradients through torch."""

from __future__ import annotations

from typing import Any

import torch

from . import _attention
from ._errors import Unsupported


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, arguments: dict[str, Any]) -> Any:
        out, lse = _attention.forward(q, k, v, None, None, True, **arguments)
        return out, lse

    @staticmethod
    def backward(ctx: Any, d_out: Any, d_lse: Any) -> Any:
        raise Unsupported("gradients: this version of liblacuna has no backward kernels")


def attention(q: Any, k: Any, v: Any, return_lse: bool, arguments: dict[str, Any]) -> Any:
    """`lacuna.attention` as a node of torch's graph."""
    out, lse = _Attention.apply(q, k, v, arguments)
    return (out, lse) if return_lse else out
