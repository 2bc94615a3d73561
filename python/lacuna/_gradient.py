"""Gradients of attention."""

from __future__ import annotations

import ctypes
from typing import Any

from . import _arrays
from ._arrays import Array, view
from ._attention import Tensors, options_of, planner_of, shape_of, workspace, writable
from ._device import Device
from ._errors import InvalidArgument
from ._library import call, struct
from .hyper import Hyper
from .plans import Planner


def attention_backward(
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    dout: Any,
    *,
    dlse: Any = None,
    plan: Planner | Hyper | None = None,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Any = None,
    layout: str = "bhsd",
    dtype: str | None = None,
    return_dsink: bool = False,
    device: Device | str | None = None,
    stream: Any = None,
) -> tuple[Any, ...]:
    """The gradients of `attention`: of sum(dout * out) + sum(dlse * lse).

    The plan is taken as given: what chose the blocks gets no gradient. The same inputs give the same bits. torch tensors
    that require gradients need no call of this: `attention` is part of their graph.

    Args:
        q, k, v: those of the forward call; k and v are not in pages, and all sequences have one length.
        out, lse: what it gave (`return_lse=True`).
        dout: the gradient of out, as out.
        dlse: the gradient of lse, f32 [batch, q_heads, q_len], or None: zeros.
        return_dsink: also give the gradient of `sink`, f32 [q_heads].
        plan, causal, window, scale, softcap, sink, layout, dtype, device, stream: those of the forward call.

    Returns:
        (dq, dk, dv), or (dq, dk, dv, dsink): new arrays like q, k, v. Keys that nobody attends get zeros.

    Raises:
        as `attention`.
    """
    tensors = Tensors(q, k, v, layout, dtype, device, stream)
    given = options_of(tensors.q, causal, window, scale, softcap, sink, 1, "auto", None, None)
    shape, queue = shape_of(tensors.q, tensors.k, 0, None), tensors.stream
    if return_dsink and sink is None:
        raise InvalidArgument("return_dsink: expected a sink, got None")
    arrays: dict[str, Array | None] = {name: getattr(tensors, name) for name in "qkv"}
    arrays |= {name: tensors.seen(name, array) for name, array in (("out", out), ("dout", dout))}
    arrays["lse"], arrays["dlse"] = _rows("lse", lse), None if dlse is None else _rows("dlse", dlse)
    results = [_arrays.empty(like, tuple(like.shape)) for like in (q, k, v)]
    for name, array in zip(("dq", "dk", "dv"), results, strict=True):
        arrays[name] = writable(name, tensors.seen(name, array))
    if return_dsink:
        results.append(_arrays.empty(q, (shape.q_heads,), "f32"))
        arrays["dsink"] = view("dsink", results[-1])
    # The struct holds addresses: what they point to must live until the call returns.
    kept = {name: array.tensor(name) for name, array in arrays.items() if array is not None}
    gradients = struct("gradients", **{name: ctypes.addressof(tensor) for name, tensor in kept.items()})
    if isinstance(plan, Hyper):
        inputs = [ctypes.byref(kept[name]) for name in ("q", "k", "v")]
        plan.backward(queue, shape, given, tensors.like, inputs, gradients, workspace)
        return tuple(results)
    planner = planner_of(plan, given.causal)
    c_shape, c_options, size = shape.to_abi(), given.to_abi(), ctypes.c_size_t()
    handle, schedule = planner.plan(queue, shape), planner.schedule(queue, shape, given)
    columns = planner.columns(queue, shape, given)
    head = (queue.value, ctypes.byref(c_shape), ctypes.byref(c_options), handle.value)
    call("backward_workspace", *head, ctypes.byref(size))
    memory, address = workspace(tensors.like, queue, size.value)
    walked = (schedule and schedule.value, columns.value)
    call("backward", *head, *walked, ctypes.byref(gradients), address, size.value)
    del memory, kept
    return tuple(results)


def _rows(what: str, given: Any) -> Array:
    """f32 [batch, q_heads, q_len] as [.., 1]."""
    array = view(what, given)
    if len(array.shape) != 3:
        raise InvalidArgument(f"{what}: expected [batch, q_heads, q_len], got {list(array.shape)}")
    array.shape, array.strides = (*array.shape, 1), (*array.strides, 1)
    return array
