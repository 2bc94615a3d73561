"""DLPack, the consumer's side: the memory behind `__dlpack__`, held until it is no longer used."""

from __future__ import annotations

import ctypes
from typing import Any

from ._errors import InvalidArgument

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
READ_ONLY = 1


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("ordinal", ctypes.c_int32)]


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes, _is_valid.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_int
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.argtypes, _get_pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p

#: (DLPack type code, bits) -> name as numpy has it.
TYPES = {(2, 16): "float16", (4, 16): "bfloat16", (2, 32): "float32", (0, 32): "int32", (1, 8): "uint8", (6, 8): "bool"}
TYPES |= {(1, 16): "uint16", (0, 16): "int16", (2, 64): "float64", (0, 64): "int64"}


class Taken:
    """The memory of an object with `__dlpack__`. Its capsule, never renamed, gives it back when it goes."""

    def __init__(self, what: str, capsule: Any) -> None:
        self._capsule = capsule
        managed: _Managed | _Versioned
        if _is_valid(capsule, b"dltensor_versioned"):
            versioned = _Versioned.from_address(_get_pointer(capsule, b"dltensor_versioned"))
            if versioned.major != 1:
                raise InvalidArgument(f"{what}: expected DLPack 1, got {versioned.major}.{versioned.minor}")
            self.writable = not versioned.flags & READ_ONLY
            managed = versioned
        elif _is_valid(capsule, b"dltensor"):
            managed = _Managed.from_address(_get_pointer(capsule, b"dltensor"))
            self.writable = True
        else:
            raise InvalidArgument(f"{what}: __dlpack__ gave no DLPack capsule, or one that was used before")
        tensor = managed.tensor
        if tensor.dtype.lanes != 1:
            raise InvalidArgument(f"{what}: expected scalar elements, got vectors of {tensor.dtype.lanes}")
        if tensor.device.kind not in (CPU, CUDA, CUDA_HOST, CUDA_MANAGED):
            kind = tensor.device.kind
            raise InvalidArgument(f"{what}: expected memory of the CPU or of a CUDA GPU, got DLPack device {kind}")
        kind = (tensor.dtype.code, tensor.dtype.bits)
        self.dtype = TYPES.get(kind, f"DLPack type {kind}")
        self.shape = tuple(tensor.shape[: tensor.ndim])
        self.strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
        self.pointer = (tensor.data or 0) + tensor.byte_offset
        self.ordinal = tensor.device.ordinal if tensor.device.kind in (CUDA, CUDA_MANAGED) else None


def take(what: str, given: Any, stream: int | None) -> Taken:
    """Asks an object for its memory; on CUDA the producer makes `stream` wait for what writes it."""
    kind, _ = given.__dlpack_device__()
    # DLPack writes the legacy default stream as 1.
    arguments = {"stream": stream or 1} if kind in (CUDA, CUDA_MANAGED) else {}
    try:
        capsule = given.__dlpack__(**arguments, max_version=(1, 0))
    except TypeError:
        # Producers from before DLPack 1.
        capsule = given.__dlpack__(**arguments)
    return Taken(what, capsule)
