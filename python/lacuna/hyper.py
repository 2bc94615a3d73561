"""HyperAttention: exact attention inside hash blocks, samples for the rest."""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from typing import Any

from ._arrays import view
from ._device import Stream
from ._errors import InvalidArgument
from ._library import Handle, call, struct
from ._request import Options, Shape, integer

_SAMPLINGS = ("uniform", "distinct", "stratified", "values")


class Hyper:
    """HyperAttention as the `plan` of `attention`, with the published names and defaults.

    Args:
        num_projections: hyperplanes of the hash, 1 to 16.
        rounds: hashes with projections of their own, 1 to 8: a query attends the keys of its blocks in all of them.
        block_size: keys of a block of the sorted order.
        sample_size: keys drawn for each KV head; 0: none.
        sinks: so many first keys are attended exactly; not with given samples.
        local_window: at least so many of the newest keys are attended exactly; at most min_seq_len, in causal calls.
        align_windows: the keys of a query block are those around the buckets of its queries.
        sampling: "uniform" with replacement, "distinct" without, "stratified": one in each of equal parts, or "values":
            by the squared norms of the rows of v.
        min_seq_len: shorter calls, and pieces of causal calls, are exact.
        bucket_order: "gray", or "compat" for the order of the published code.
        center: hash x - mean in place of x.
        seed: of projections and samples that are not given.
        projections: f32 [head_dim, num_projections], or [rounds, head_dim, num_projections], on the device of the calls.
        samples: i32 [batch, kv_heads, sample_size], places in the keys as the first round sorts them; not for causal calls.
    """

    def __init__(
        self,
        num_projections: int = 7,
        block_size: int = 256,
        sample_size: int = 256,
        min_seq_len: int = 4096,
        bucket_order: str = "gray",
        center: bool = True,
        seed: int = 0,
        *,
        projections: Any = None,
        samples: Any = None,
        sampling: str = "uniform",
        sinks: int = 0,
        local_window: int = 0,
        align_windows: bool = False,
        rounds: int = 1,
    ) -> None:
        if bucket_order not in ("gray", "compat"):
            raise InvalidArgument(f"bucket_order must be 'gray' or 'compat', got {bucket_order!r}")
        if sampling not in _SAMPLINGS:
            raise InvalidArgument(f"sampling must be one of {', '.join(map(repr, _SAMPLINGS))}, got {sampling!r}")
        if not 0 <= seed < 1 << 64:
            raise InvalidArgument(f"seed must be in 0..2^64, got {seed}")
        sizes = {
            "num_projections": num_projections,
            "block_size": block_size,
            "sample_size": sample_size,
            "min_seq_len": min_seq_len,
            "sinks": sinks,
            "rounds": rounds,
            "local_window": local_window,
        }
        values = {name: integer(name, value) for name, value in sizes.items()}
        values |= {
            "center": int(bool(center)),
            "compat_buckets": int(bucket_order == "compat"),
            "sampling": _SAMPLINGS.index(sampling),
            "align_windows": int(bool(align_windows)),
        }
        self._config = struct("hyper_config", seed=seed, **values)
        self._given = {"projections": projections, "samples": samples}
        self._lock = threading.Lock()
        # Plans hold what the last update wrote, so that a stream has its own.
        self._plans: OrderedDict[Any, tuple[Handle, threading.Lock]] = OrderedDict()

    def run(
        self,
        stream: Stream,
        shape: Shape,
        options: Options,
        like: Any,
        inputs: list[Any],
        outputs: list[Any],
        workspace: Any,
    ) -> None:
        """Hashes, sorts, attends; called by `attention`."""
        handle, lock = self._plan(stream, shape, options)
        size = ctypes.c_size_t()
        call("hyper_workspace", handle.value, ctypes.byref(size))
        memory, address = workspace(like, stream, size.value)
        with lock:
            call("hyper_update_with_values", stream.value, handle.value, *inputs)
            call("hyper_forward", stream.value, handle.value, *inputs, *outputs, address, size.value)
        del memory

    def backward(
        self,
        stream: Stream,
        shape: Shape,
        options: Options,
        like: Any,
        inputs: list[Any],
        gradients: Any,
        workspace: Any,
    ) -> None:
        """Hashes and sorts q and k again, to the same rows and samples, and takes the gradients; called by `attention`."""
        handle, lock = self._plan(stream, shape, options)
        size = ctypes.c_size_t()
        call("hyper_backward_workspace", stream.value, handle.value, ctypes.byref(size))
        memory, address = workspace(like, stream, size.value)
        with lock:
            call("hyper_update_with_values", stream.value, handle.value, *inputs)
            call("hyper_backward", stream.value, handle.value, ctypes.byref(gradients), address, size.value)
        del memory

    def _plan(self, stream: Stream, shape: Shape, options: Options) -> tuple[Handle, threading.Lock]:
        with self._lock:
            key = (stream.value, shape, options)
            if key not in self._plans:
                self._plans[key] = (self._make(stream, shape, options), threading.Lock())
            self._plans.move_to_end(key)
            plan = self._plans[key]
            while len(self._plans) > 4:
                self._plans.popitem(last=False)
            return plan

    def _make(self, stream: Stream, shape: Shape, options: Options) -> Handle:
        given = (ctypes.byref(shape.to_abi()), ctypes.byref(options.to_abi()), ctypes.byref(self._config))
        handle = Handle("hyper", "hyper_create", stream.value, *given)
        for name, array in self._given.items():
            if array is not None:
                tensor = view(name, array).tensor(name)
                call(f"hyper_set_{name}", stream.value, handle.value, ctypes.byref(tensor))
        return handle
