"""lacuna: sparse attention on NVIDIA GPUs, and the same kernels on the CPU.

>>> import lacuna, numpy
>>> q, k, v = (numpy.random.randn(1, heads, 256, 64).astype("float16") for heads in (4, 2, 2))
>>> lacuna.attention(q, k, v, causal=True, plan=lacuna.S2(local_blocks=2, vertical_stride=2)).shape
(1, 4, 256, 64)

Arrays are used in place, without a copy: numpy arrays and CPU torch tensors on the CPU (the "SIMT host"), CUDA tensors
of torch, or of anything with DLPack or `__cuda_array_interface__`, on their GPU.
"""

from __future__ import annotations

from ._attention import attention, decode, kernel_name, merge
from ._device import Device, Stream
from ._errors import DeviceMismatch, Error, InvalidArgument, KernelError, OutOfMemory, Unavailable, Unsupported
from ._gradient import attention_backward
from ._library import build
from ._library import version as _version
from ._request import Shape
from ._varlen import attention_varlen
from .hyper import Hyper
from .plans import S2, BlockLists, Blocks, Dense, Plan, Planner, Window
from .seer import DecodeGate, GateCache, SeerGate

__version__ = _version()

__all__ = [
    "S2",
    "BlockLists",
    "Blocks",
    "DecodeGate",
    "Dense",
    "Device",
    "DeviceMismatch",
    "Error",
    "GateCache",
    "Hyper",
    "InvalidArgument",
    "KernelError",
    "OutOfMemory",
    "Plan",
    "Planner",
    "SeerGate",
    "Shape",
    "Stream",
    "Unavailable",
    "Unsupported",
    "Window",
    "attention",
    "attention_backward",
    "attention_varlen",
    "build",
    "decode",
    "kernel_name",
    "merge",
]
