"""Devices and streams."""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

from ._library import Handle, call, struct

_lock = threading.Lock()
_devices: dict[str, Device] = {}
_wrapped: dict[tuple[str, int], Stream] = {}


class _Local(threading.local):
    """What a thread has for itself."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}


_local = _Local()


class Device:
    """A machine that runs kernels: "simt" (the CPU), "cuda:N", or "auto" (GPU 0 if there is one, else "simt").

    Nothing takes the place of a GPU that is asked for by name: `Unavailable` says why it is not there.
    """

    def __init__(self, name: str = "auto") -> None:
        self._handle = Handle("device", "device_open", str(name).encode())
        info = struct("device_info")
        call("device_describe", self._handle.value, ctypes.byref(info))
        #: "simt", or for example "cuda:0 NVIDIA H200".
        self.name: str = info.name.decode()
        #: One sentence: why this device was chosen.
        self.choice: str = info.choice.decode()
        #: What the kernels were built for.
        self.architectures: str = info.architectures.decode()
        #: Whether it is the SIMT host.
        self.is_simt: bool = bool(info.is_simt)
        #: Number of the GPU; None on the SIMT host.
        self.ordinal: int | None = None if self.is_simt else info.ordinal

    def __repr__(self) -> str:
        return f"lacuna.Device({self.name!r})"


class Stream:
    """A queue of work on one device.

    It is one of its own, or with `cu_stream` (the number of a CUstream; 0 is the legacy default stream) somebody
    else's, which must outlive it.
    """

    def __init__(self, device: Device, cu_stream: int | None = None) -> None:
        self.device = device
        if cu_stream is None:
            self._handle = Handle("stream", "stream_create", device._handle.value)
        else:
            self._handle = Handle("stream", "stream_wrap", device._handle.value, cu_stream)

    def synchronize(self) -> None:
        """Waits until all work on the stream is done."""
        call("stream_synchronize", self._handle.value)

    def counters(self) -> dict[str, int]:
        """Work counted on the SIMT host since the stream was made: launches, mma_macs, copy_bytes, bank_conflicts."""
        counters = struct("counters")
        call("stream_counters", self._handle.value, ctypes.byref(counters))
        return {name: getattr(counters, name) for name in ("launches", "mma_macs", "copy_bytes", "bank_conflicts")}

    @property
    def value(self) -> Any:
        """The handle of the C library."""
        return self._handle.value


def device(name: str) -> Device:
    """The device of this name, opened once."""
    with _lock:
        if name not in _devices:
            _devices[name] = Device(name)
        return _devices[name]


def current_stream(of: Device) -> Stream:
    """Where calls go that name no stream: torch's current stream of a GPU if torch is loaded, else its legacy default
    stream; on the SIMT host a stream for each thread.
    """
    if of.is_simt:
        if of.name not in _local.streams:
            _local.streams[of.name] = Stream(of)
        return _local.streams[of.name]
    torch = sys.modules.get("torch")
    raw = torch.cuda.current_stream(of.ordinal).cuda_stream if torch is not None and torch.cuda.is_available() else 0
    return wrap(of, raw)


def wrap(of: Device, cu_stream: int) -> Stream:
    """Somebody else's CUDA stream, wrapped once."""
    with _lock:
        key = (of.name, cu_stream)
        if key not in _wrapped:
            _wrapped[key] = Stream(of, cu_stream)
        return _wrapped[key]
