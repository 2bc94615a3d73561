"""Planners: which keys a query looks at.

A planner is made once and given to any number of calls. What it needs on a device (lists, a schedule for the kernel) is
made for each shape and set of options that it meets, and kept.
"""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from typing import Any

import numpy

from ._arrays import is_torch
from ._device import Stream, current_stream, device
from ._errors import InvalidArgument, Unsupported
from ._library import Handle, call, struct
from ._request import Options, Shape, integer

#: Shapes and options that a planner remembers.
KEPT = 32


class Planner:
    """The base of all planners."""

    _causal_only = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plans: OrderedDict[Any, Handle] = OrderedDict()
        self._schedules: OrderedDict[Any, Handle] = OrderedDict()
        self._columns: OrderedDict[Any, Handle] = OrderedDict()

    def _make(self, stream: Stream, shape: Shape) -> Handle:
        raise NotImplementedError

    def _key(self, shape: Shape) -> Any:
        """What of a shape the plan depends on."""
        return shape

    def plan(self, stream: Stream, shape: Shape) -> Handle:
        """The plan for a shape on the stream's device."""
        key = (stream.device.name, self._key(shape))
        return self._kept(self._plans, key, lambda: self._make(stream, shape))

    def schedule(self, stream: Stream, shape: Shape, options: Options) -> Handle | None:
        """The plan arranged for the kernel of a call; None where the plan has no lists."""
        if not self._has_lists():
            return None
        plan = self.plan(stream, shape)
        key = (stream.device.name, shape, options)

        def make() -> Handle:
            given = (ctypes.byref(shape.to_abi()), ctypes.byref(options.to_abi()))
            return Handle("schedule", "schedule_create", stream.value, *given, plan.value)

        return self._kept(self._schedules, key, make)

    def columns(self, stream: Stream, shape: Shape, options: Options) -> Handle:
        """Who attends each tile of keys, for gradients."""
        plan = self.plan(stream, shape)

        def make() -> Handle:
            given = (ctypes.byref(shape.to_abi()), ctypes.byref(options.to_abi()))
            return Handle("columns", "columns_create", stream.value, *given, plan.value)

        return self._kept(self._columns, (stream.device.name, shape, options), make)

    def _has_lists(self) -> bool:
        return False

    def check(self, causal: bool) -> None:
        """Refuses calls that the planner is not for."""
        if self._causal_only and not causal:
            raise Unsupported(f"{type(self).__name__} without causal=True: its pattern is causal")

    def _kept(self, store: OrderedDict[Any, Handle], key: Any, make: Any) -> Handle:
        with self._lock:
            if key not in store:
                store[key] = make()
            store.move_to_end(key)
            handle = store[key]
            while len(store) > KEPT:
                store.popitem(last=False)
            return handle

    def block_mask(self, shape: Shape, *, causal: bool = False, window: Any = None, on: str = "simt") -> numpy.ndarray:
        """How often each block is attended in a call: uint8 [1 or batch, plan heads, query blocks, key blocks]."""
        stream, sizes = current_stream(device(on)), (ctypes.c_int64 * 4)()
        given, options = shape.to_abi(), Options(causal=causal, window=window).to_abi()
        plan = self.plan(stream, shape)
        arguments = (stream.value, plan.value, ctypes.byref(given), ctypes.byref(options))
        call("plan_block_mask", *arguments, None, 0, sizes)
        mask = numpy.zeros(tuple(sizes), numpy.uint8)
        call("plan_block_mask", *arguments, mask.ctypes.data, mask.nbytes, sizes)
        return mask

    def visited_pairs(self, shape: Shape, *, causal: bool = False, window: Any = None, on: str = "simt") -> int:
        """(query, key) pairs that pass plan and mask, summed over sequences and query heads."""
        stream, pairs = current_stream(device(on)), ctypes.c_uint64()
        given, options = shape.to_abi(), Options(causal=causal, window=window).to_abi()
        plan = self.plan(stream, shape)
        arguments = (ctypes.byref(given), ctypes.byref(options), ctypes.byref(pairs))
        call("plan_visited_pairs", stream.value, plan.value, *arguments)
        return pairs.value


class Dense(Planner):
    """Every key that the mask of the call shows."""

    def _make(self, stream: Stream, shape: Shape) -> Handle:
        return Handle("plan", "plan_dense")

    def _key(self, shape: Shape) -> Any:
        return None


class Window(Planner):
    """Newest `local_blocks` blocks of keys (the query's own counts) and first `sink_blocks`, for causal calls."""

    _causal_only = True

    def __init__(self, local_blocks: int, sink_blocks: int = 0, block_size: int = 64) -> None:
        super().__init__()
        given = {"block_size": block_size, "local_blocks": local_blocks, "sink_blocks": sink_blocks}
        self._sizes = [integer(name, value) for name, value in given.items()]

    def _make(self, stream: Stream, shape: Shape) -> Handle:
        return Handle("plan", "plan_window", *self._sizes)

    def _key(self, shape: Shape) -> Any:
        return None


class S2(Planner):
    """S2-Attention (DKernel), for causal calls: a local window, and vertical stripes that slide from head to head.

    Arguments are the names of the paper's code; `variant` is "dkernel" or "phi3"; `head_sliding_step` None is
    max(1, vertical_stride // q_heads).
    """

    _causal_only = True

    def __init__(
        self,
        block_size: int = 64,
        local_blocks: int = 16,
        vertical_stride: int = 8,
        head_sliding_step: int | None = None,
        head_sliding_offset: int = 0,
        num_dense_kv_heads: int = 0,
        homogeneous: bool = False,
        sink_blocks: int = 0,
        variant: str = "dkernel",
    ) -> None:
        super().__init__()
        if variant not in ("dkernel", "phi3"):
            raise InvalidArgument(f"variant must be 'dkernel' or 'phi3', got {variant!r}")
        sizes = {
            "block_size": block_size,
            "local_blocks": local_blocks,
            "vertical_stride": vertical_stride,
            "head_sliding_step": 0 if head_sliding_step is None else head_sliding_step,
            "head_sliding_offset": head_sliding_offset,
            "num_dense_kv_heads": num_dense_kv_heads,
            "sink_blocks": sink_blocks,
        }
        flags = {"homogeneous": int(bool(homogeneous)), "phi3": int(variant == "phi3")}
        self._config = struct("s2_config", **{name: integer(name, value) for name, value in sizes.items()}, **flags)

    def _make(self, stream: Stream, shape: Shape) -> Handle:
        return Handle("plan", "plan_s2", ctypes.byref(shape.to_abi()), ctypes.byref(self._config))


def _rows(batch: int, heads: int, block_q: int, block_k: int, absolute: bool) -> Any:
    sizes = {"batch": batch, "heads": heads, "block_q": block_q, "block_k": block_k}
    values = {name: integer(name, value) for name, value in sizes.items()}
    return struct("rows", absolute=int(bool(absolute)), **values)


class Blocks(Planner):
    """A mask of blocks: what is not 0 is attended.

    Its axes are [1 or batch, plan heads, query blocks, key blocks], with 1, kv_heads or q_heads plan heads. Those in
    front may be left out.

    Query blocks count from the call's first query, or with `absolute` from key position 0. `mask` is a numpy array, a
    torch tensor or a nested list, and is copied (from a GPU too).
    """

    def __init__(self, mask: Any, block_q: int = 64, block_k: int = 64, *, absolute: bool = False) -> None:
        super().__init__()
        if is_torch(mask):
            mask = mask.detach().cpu().numpy()
        mask = numpy.asarray(mask)
        if not 2 <= mask.ndim <= 4 or mask.dtype.kind not in "biu":
            expected = "[1 or batch, plan heads, query blocks, key blocks] of integers or bools"
            raise InvalidArgument(f"mask: expected {expected}, got {mask.dtype} {list(mask.shape)}")
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        self._mask = numpy.ascontiguousarray(mask != 0).astype(numpy.uint8)
        self._rows = _rows(mask.shape[0], mask.shape[1], block_q, block_k, absolute)

    def _make(self, stream: Stream, shape: Shape) -> Handle:
        given, rows = shape.to_abi(), self._rows
        if not rows.absolute and rows.block_q > 0 and rows.block_k > 0:
            # The library sees bytes alone: another shape with as many of them would pass.
            expected = [-(-given.q_len // rows.block_q), -(-given.kv_len // rows.block_k)]
            got = list(self._mask.shape[2:])
            if got != expected:
                raise InvalidArgument(f"mask: expected {expected} query and key blocks, got {got}")
        data = (self._mask.ctypes.data, self._mask.nbytes)
        return Handle("plan", "plan_from_mask", stream.value, ctypes.byref(given), ctypes.byref(rows), *data)

    def _has_lists(self) -> bool:
        return True


class BlockLists(Planner):
    """Lists of key blocks, CSR: row r attends indices[row_offsets[r]:row_offsets[r + 1]], ascending.

    Row (b * heads + p) * query blocks + i is query block i of plan head p of sequence b. `batch` is 1 (all sequences
    share the rows) or the batch, `heads` 1, kv_heads or q_heads. A block named twice counts twice.
    """

    def __init__(
        self,
        row_offsets: Any,
        indices: Any,
        *,
        batch: int = 1,
        heads: int = 1,
        block_q: int = 64,
        block_k: int = 64,
        absolute: bool = False,
    ) -> None:
        super().__init__()
        self._row_offsets = _int32_list("row_offsets", row_offsets)
        self._indices = _int32_list("indices", indices)
        self._rows = _rows(batch, heads, block_q, block_k, absolute)

    def _make(self, stream: Stream, shape: Shape) -> Handle:
        given = (ctypes.byref(shape.to_abi()), ctypes.byref(self._rows))
        lists = (self._row_offsets, self._indices)
        data = [part for values in lists for part in (values.ctypes.data, values.size)]
        return Handle("plan", "plan_from_lists", stream.value, *given, *data)

    def _has_lists(self) -> bool:
        return True


def _int32_list(what: str, values: Any) -> numpy.ndarray:
    values = numpy.asarray(values.detach().cpu() if is_torch(values) else values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise InvalidArgument(f"{what}: expected a list of integers, got {values.dtype} {list(values.shape)}")
    limits = numpy.iinfo(numpy.int32)
    if values.size and (values.min() < limits.min or values.max() > limits.max):
        raise InvalidArgument(f"{what}: expected 32-bit integers, got {values.min()}..{values.max()}")
    return numpy.ascontiguousarray(values.astype(numpy.int32))


class Plan(Planner):
    """Lists that a gate has filled, for one shape on one device. Made by `SeerGate.plan` and `DecodeGate.plan`."""

    def __init__(self, stream: Stream, shape: Shape, handle: Handle) -> None:
        super().__init__()
        self._stream, self._shape, self._handle = stream, shape, handle

    def _make(self, stream: Stream, shape: Shape) -> Handle:
        return self._handle

    def _key(self, shape: Shape) -> Any:
        return None

    def plan(self, stream: Stream, shape: Shape) -> Handle:
        return self._handle

    def _has_lists(self) -> bool:
        return True

    def overflow(self) -> int:
        """Blocks that did not fit the capacity. Waits for the device."""
        blocks = ctypes.c_int64()
        call("plan_overflow", self._stream.value, self._handle.value, ctypes.byref(blocks))
        return blocks.value
