"""Attention over plans."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy

from . import _arrays
from ._arrays import Array, view
from ._device import Device, Stream, current_stream, device as device_of, wrap
from ._errors import InvalidArgument
from ._library import call, struct
from ._request import Options, Shape, integer
from .hyper import Hyper
from .plans import Dense, Planner

_DENSE = Dense()
#: Axes of [batch, seq, heads, dim] as [batch, heads, seq, dim], and back.
_SWAP = (0, 2, 1, 3)


class Tensors:
    """q, k, v of a call as the C ABI has them, and the stream that it goes to."""

    def __init__(self, q: Any, k: Any, v: Any, layout: str, dtype: str | None, on: Any, stream: Any) -> None:
        if layout not in ("bhsd", "bshd"):
            raise InvalidArgument(f"layout must be 'bhsd' or 'bshd', got {layout!r}")
        self.like, self.layout, self.dtype = q, layout, dtype
        raw = raw_stream(stream)
        self.q, self.k, self.v = (self.seen(name, given, raw) for name, given in (("q", q), ("k", k), ("v", v)))
        self.stream = stream_for(on, stream, self.q)

    def seen(self, what: str, given: Any, raw: int | None = None) -> Array:
        """An array of q's axes, as [batch, heads, seq, dim]."""
        array = view(what, given, self.dtype, raw)
        if len(array.shape) != 4:
            axes = ", ".join({"b": "batch", "h": "heads", "s": "seq", "d": "dim"}[axis] for axis in self.layout)
            raise InvalidArgument(f"{what}: expected [{axes}], got {list(array.shape)}")
        return array.permuted(_SWAP) if self.layout == "bshd" else array

    def output(self, out: Any) -> tuple[Any, Array]:
        """The caller's output, or a new one like q; as it is and as [batch, heads, seq, dim]."""
        if out is None:
            shape = self.q.shape if self.layout == "bhsd" else tuple(self.q.shape[axis] for axis in _SWAP)
            out = _arrays.empty(self.like, shape)
        return out, writable("out", self.seen("out", out))

    def lse(self, given: Any, wanted: bool) -> tuple[Any, Array | None]:
        """LSE [batch, q_heads, q_len] f32: the caller's, a new one, or none; the second is [.., 1]."""
        if given is None and not wanted:
            return None, None
        if given is None:
            given = _arrays.empty(self.like, self.q.shape[:3], "f32")
        array = writable("lse", view("lse", given))
        if len(array.shape) != 3:
            raise InvalidArgument(f"lse: expected [batch, q_heads, q_len], got {list(array.shape)}")
        array.shape, array.strides = (*array.shape, 1), (*array.strides, 1)
        return given, array


def writable(what: str, array: Array) -> Array:
    if not array.writable:
        raise InvalidArgument(f"{what}: expected memory that may be written, got a read-only array")
    return array


def raw_stream(stream: Any) -> int | None:
    """The number of a CUDA stream that a caller names: a number, or an object of torch or CuPy."""
    if stream is None or isinstance(stream, (int, Stream)):
        return stream if isinstance(stream, int) else None
    for name in ("cuda_stream", "ptr"):
        if isinstance(getattr(stream, name, None), int):
            return int(getattr(stream, name))
    expected = "a lacuna.Stream, a CUstream as a number, or a stream of torch or CuPy"
    raise InvalidArgument(f"stream: expected {expected}, got {stream!r}")


def stream_for(on: Any, stream: Any, array: Array) -> Stream:
    """The stream of a call: the one that is named, or the current one of the device of its first array."""
    if isinstance(stream, Stream):
        return stream
    chosen = on if isinstance(on, Device) else device_of(array.device if on is None else str(on))
    raw = raw_stream(stream)
    if raw is None and array.stream is not None and not chosen.is_simt:
        # CUDA array interface: 1 is the legacy default stream, 2 the one of the thread; others are pointers.
        raw = 0 if array.stream == 1 else array.stream
    return current_stream(chosen) if raw is None else wrap(chosen, raw)


def workspace(like: Any, stream: Stream, size: int) -> tuple[Any, int]:
    """Memory for one call: an object that keeps it, and its address. Torch frees in the order of the stream."""
    if stream.device.is_simt:
        memory = numpy.empty(-(-size // 16) + 1, "V16")
        return memory, -(-memory.ctypes.data // 16) * 16
    memory = _arrays.empty(like, (max(size, 16),), "u8")
    return memory, view("workspace", memory).pointer


def shape_of(q: Array, k: Array, page_size: int, kv_len: int | None) -> Shape:
    """The sizes that tensors say; with pages, `kv_len` is the caller's to say."""
    batch, q_heads, q_len, head_dim = q.shape
    if page_size == 0:
        if kv_len is not None and kv_len != k.shape[2]:
            raise InvalidArgument(f"kv_len must be that of k ({k.shape[2]}) without a block_table, got {kv_len}")
        kv_len = k.shape[2]
    elif kv_len is None:
        raise InvalidArgument("kv_len: expected the number of keys, as k is in pages, got None")
    return Shape(batch, q_heads, k.shape[1], q_len, integer("kv_len", kv_len), head_dim, q.dtype)


def options_of(
    q: Array,
    causal: bool,
    window: Any,
    scale: float | None,
    softcap: float | None,
    sink: Any,
    splits: int,
    family: str,
    block_table: Any,
    page_size: int | None,
    **lengths: Any,
) -> Options:
    """Options with their tensors; `lengths` are cu_seqlens_q, cu_seqlens_k, kv_lens, each an array or None."""
    if (block_table is None) != (page_size is None):
        raise InvalidArgument("block_table and page_size: expected both or neither")
    table = None
    if block_table is not None:
        table = view("block_table", block_table)
        if len(table.shape) not in (2, 3):
            expected = "[batch, pages] or [batch, kv_heads, pages]"
            raise InvalidArgument(f"block_table: expected {expected}, got {list(table.shape)}")
        # The ABI has an axis for heads and one of size 1 before the pages.
        middle = table.shape[1:-1] or (1,)
        of_middle = table.strides[1:-1] or (0,)
        table.shape = (table.shape[0], *middle, 1, table.shape[-1])
        table.strides = (table.strides[0], *of_middle, 0, table.strides[-1])
    sinks = None if sink is None else view("sink", sink)
    given: dict[str, Any] = {name: view(name, array) for name, array in lengths.items() if array is not None}
    fixed = (bool(causal), _pair(window), scale, softcap, splits, family, page_size or 0, sinks, table)
    return Options(*fixed, ragged=bool(given), **given)


def _pair(window: Any) -> Any:
    return (None, None) if window is None else tuple(window) if isinstance(window, (list, tuple)) else window


def reference(tensor: Array | None, what: str) -> Any:
    """The address of a tensor of the ABI, or null."""
    return None if tensor is None else ctypes.byref(tensor.tensor(what))


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    plan: Planner | None = None,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Any = None,
    splits: int = 1,
    family: str = "auto",
    layout: str = "bhsd",
    dtype: str | None = None,
    block_table: Any = None,
    page_size: int | None = None,
    kv_len: int | None = None,
    kv_lens: Any = None,
    out: Any = None,
    lse: Any = None,
    return_lse: bool = False,
    device: Device | str | None = None,
    stream: Any = None,
) -> Any:
    """Attention of q over the keys that plan and mask let each query see: softmax(scale * q k^T) v.

    Arrays are used in place: numpy arrays and CPU tensors by the SIMT host, CUDA memory by its GPU.

    Args:
        q: [batch, q_heads, q_len, head_dim], float16 or bfloat16; q_heads is a multiple of kv_heads. head_dim is 32,
            64, 96, 128 or 256, and its elements are contiguous; other strides are free.
        k, v: [batch, kv_heads, kv_len, head_dim], or with `block_table` pages [pages, kv_heads, page_size, head_dim].
        plan: a planner of this package, or None: every key.
        causal: hides keys after the query; the last query is aligned with the last key (q_len <= kv_len).
        window: (left, right), how many keys before and after the query's position stay visible; None is all.
        scale: multiplies q . k; None is 1 / sqrt(head_dim).
        softcap: logits become softcap * tanh(logit / softcap).
        sink: f32 [q_heads], a logit for each head that joins the denominator.
        splits: parts that the keys are cut into and that run at once, 1 to 64.
        family: "auto", "portable" or "hopper": the kernels that may serve the call.
        layout: "bhsd", or "bshd" for tensors [batch, seq, heads, head_dim] (pages: [pages, page_size, heads, dim]).
        dtype: "bf16" for arrays of uint16 that hold its bits.
        block_table: i32 [batch, pages] or [batch, kv_heads, pages], with `page_size` and `kv_len`: key t of sequence b
            is row t % page_size of page block_table[b, t // page_size].
        kv_lens: i32 [batch], keys of each sequence where they differ, on the device of q: k and v have room for the
            longest, and queries stand at the end of their own sequence. For packed sequences see `attention_varlen`.
        out, lse: where to write; new arrays like q by default.
        return_lse: also give ln(sum(exp(logits))), f32 [batch, q_heads, q_len].
        device, stream: by default the device of q and its current stream.

    Returns:
        out, or (out, lse). A row that sees nothing is 0, its LSE -inf.

    Raises:
        InvalidArgument, DeviceMismatch, Unsupported, Unavailable, OutOfMemory, KernelError; all are `lacuna.Error`.
    """
    arguments = {
        "plan": plan,
        "causal": causal,
        "window": window,
        "scale": scale,
        "softcap": softcap,
        "sink": sink,
        "splits": splits,
        "family": family,
        "layout": layout,
        "dtype": dtype,
        "block_table": block_table,
        "page_size": page_size,
        "kv_len": kv_len,
        "kv_lens": kv_lens,
        "device": device,
        "stream": stream,
    }
    if any(_arrays.is_torch(array) and array.requires_grad for array in (q, k, v, sink)):
        if sys.modules["torch"].is_grad_enabled():
            from . import _autograd

            if out is not None or lse is not None:
                raise InvalidArgument("out and lse: expected None where gradients are asked for")
            return _autograd.attention(q, k, v, return_lse, arguments)
    return forward(q, k, v, out, lse, return_lse, **arguments)


def forward(
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    return_lse: bool,
    *,
    plan: Planner | None,
    layout: str,
    dtype: str | None,
    kv_len: int | None,
    device: Any,
    stream: Any,
    **options: Any,
) -> Any:
    """`attention` without gradients."""
    tensors = Tensors(q, k, v, layout, dtype, device, stream)
    given = options_of(tensors.q, **options)
    shape = shape_of(tensors.q, tensors.k, given.page_size, kv_len)
    out, out_array = tensors.output(out)
    lse, lse_array = tensors.lse(lse, return_lse)
    run(tensors, plan, shape, given, out_array, lse_array)
    return (out, lse) if return_lse else out


def run(tensors: Tensors, plan: Any, shape: Shape, options: Options, out: Array, lse: Array | None) -> None:
    """Makes what the plan needs for a shape, and attends."""
    queue = tensors.stream
    inputs = [reference(getattr(tensors, name), name) for name in "qkv"]
    outputs = [reference(out, "out"), reference(lse, "lse")]
    if isinstance(plan, Hyper):
        plan.run(queue, shape, options, tensors.like, inputs, outputs, workspace)
        return
    planner = planner_of(plan, options.causal)
    c_shape, c_options, size = shape.to_abi(), options.to_abi(), ctypes.c_size_t()
    call("forward_workspace", ctypes.byref(c_shape), ctypes.byref(c_options), ctypes.byref(size))
    handle, schedule = planner.plan(queue, shape), planner.schedule(queue, shape, options)
    memory, address = workspace(tensors.like, queue, size.value)
    head = (queue.value, ctypes.byref(c_shape), ctypes.byref(c_options), handle.value)
    call("forward", *head, schedule and schedule.value, *inputs, *outputs, address, size.value)
    del memory


def planner_of(plan: Any, causal: bool) -> Planner:
    if plan is None:
        return _DENSE
    if isinstance(plan, Planner):
        plan.check(causal)
        return plan
    raise InvalidArgument(f"plan: expected a planner such as lacuna.S2(), got {type(plan).__name__}")


def decode(
    q: Any,
    k: Any,
    v: Any,
    *,
    plan: Planner | None = None,
    kv_lens: Any = None,
    causal: bool = True,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Any = None,
    family: str = "auto",
    layout: str = "bhsd",
    dtype: str | None = None,
    block_table: Any = None,
    page_size: int | None = None,
    kv_len: int | None = None,
    out: Any = None,
    lse: Any = None,
    return_lse: bool = False,
    device: Device | str | None = None,
    stream: Any = None,
) -> Any:
    """Attention of the newest 1 to 16 queries of each sequence, split over the keys by itself.

    Arguments and results are those of `attention`, but for:

    Args:
        kv_lens: i32 [batch], the keys of each sequence where they differ, on the device of q. k and v have room for the
            longest; queries stand at the end of their own sequence.
        causal: True by default: each query sees the keys up to its own.
    """
    tensors = Tensors(q, k, v, layout, dtype, device, stream)
    fixed = (causal, window, scale, softcap, sink, 1, family, block_table, page_size)
    given = options_of(tensors.q, *fixed, kv_lens=kv_lens)
    shape = shape_of(tensors.q, tensors.k, given.page_size, kv_len)
    out, out_array = tensors.output(out)
    lse, lse_array = tensors.lse(lse, return_lse)
    if isinstance(plan, Hyper):
        raise InvalidArgument("plan: HyperAttention has no decode; use another planner")
    c_shape, c_options, size = shape.to_abi(), given.to_abi(), ctypes.c_size_t()
    handle = planner_of(plan, given.causal).plan(tensors.stream, shape)
    call("decode_workspace", ctypes.byref(c_shape), handle.value, ctypes.byref(size))
    memory, address = workspace(tensors.like, tensors.stream, size.value)
    head = (tensors.stream.value, ctypes.byref(c_shape), ctypes.byref(c_options), handle.value)
    inputs = [reference(getattr(tensors, name), name) for name in "qkv"]
    outputs = [reference(out_array, "out"), reference(lse_array, "lse")]
    call("decode", *head, *inputs, *outputs, address, size.value)
    del memory
    return (out, lse) if return_lse else out


def merge(
    partial_out: Any,
    partial_lse: Any,
    *,
    out: Any,
    lse: Any = None,
    dtype: str | None = None,
    device: Device | str | None = None,
    stream: Any = None,
) -> Any:
    """Merges partial results over disjoint keys, in f32 and in the order of the splits.

    Args:
        partial_out: f32 [splits, batch, heads, len, dim], packed.
        partial_lse: f32 [splits, batch, heads, len], packed.
        out: f16 or bf16 [batch, heads, len, dim], written; its type decides. `dtype` as in `attention`.
        lse: f32 [batch, heads, len], written; or None.

    Returns:
        out.
    """
    parts, logs = view("partial_out", partial_out), view("partial_lse", partial_lse)
    target = writable("out", view("out", out, dtype))
    if len(parts.shape) != 5 or len(logs.shape) != 4 or len(target.shape) != 4:
        got = [list(array.shape) for array in (parts, logs, target)]
        raise InvalidArgument(f"expected partial_out with 5 axes, partial_lse with 4 and out with 4, got {got}")
    splits = parts.shape[0]
    if logs.shape != parts.shape[:4] or tuple(parts.shape[1:]) != tuple(target.shape):
        got = [list(array.shape) for array in (parts, logs, target)]
        raise InvalidArgument(f"expected [splits, *out], [splits, *out without dim] and out, got {got}")
    for what, array in (("partial_out", parts), ("partial_lse", logs)):
        if array.strides != _arrays._packed(array.shape) and 0 not in array.shape:
            raise InvalidArgument(f"{what}: expected packed elements, got strides {array.strides}")
    queue = stream_for(device, stream, target)
    parts.shape = (splits * parts.shape[1], *parts.shape[2:])
    parts.strides = _arrays._packed(parts.shape)
    logs.shape = (*parts.shape[:3], 1)
    logs.strides = _arrays._packed(logs.shape)
    lse_array = None
    if lse is not None:
        lse_array = writable("lse", view("lse", lse))
        lse_array.shape, lse_array.strides = (*lse_array.shape, 1), (*lse_array.strides, 1)
    names = ("partial_out", "partial_lse", "out", "lse")
    tensors = [reference(array, name) for name, array in zip(names, (parts, logs, target, lse_array))]
    call("merge", queue.value, splits, *tensors)
    return out


def kernel_name(shape: Shape, *, plan: Planner | None = None, device: Device | str = "auto", **options: Any) -> str:
    """The kernel that `attention` runs for a shape and options (causal, window, splits, family), for example
    "sm80_forward_d64_bf16".
    """
    chosen = device if isinstance(device, Device) else device_of(device)
    queue, info = current_stream(chosen), struct("kernel_info")
    c_shape, c_options = shape.to_abi(), Options(**options).to_abi()
    handle = planner_of(plan, bool(options.get("causal"))).plan(queue, shape)
    call(
        "forward_kernel", queue.value, ctypes.byref(c_shape), ctypes.byref(c_options), handle.value, ctypes.byref(info)
    )
    return str(info.name.decode())
