"""Arrays of other libraries as tensors of the C ABI, without a copy.

numpy arrays (also with ml_dtypes.bfloat16), torch tensors, and whatever speaks DLPack or `__cuda_array_interface__`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy

from . import _dlpack
from ._errors import InvalidArgument
from ._library import constants, set_field, struct

#: Name of an element type -> (number in the ABI, bytes).
DTYPES = {
    "f16": (constants["LACUNA_DTYPE_F16"], 2),
    "bf16": (constants["LACUNA_DTYPE_BF16"], 2),
    "f32": (constants["LACUNA_DTYPE_F32"], 4),
    "i32": (constants["LACUNA_DTYPE_I32"], 4),
    "u8": (constants["LACUNA_DTYPE_U8"], 1),
}
#: What other libraries call them. A bool is a byte.
NAMES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "int32": "i32", "uint8": "u8", "bool": "u8"}


@dataclass
class Array:
    """A view of somebody's memory. `owner` keeps it alive."""

    owner: Any
    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    dtype: str  # a key of DTYPES, or the name of a type that is none, for the message
    ordinal: int | None  # of the GPU; None: host memory
    writable: bool
    stream: int | None  # that the memory is used on, where its owner says so

    @property
    def device(self) -> str:
        """The device that can use it, as `lacuna.Device` takes it."""
        return "simt" if self.ordinal is None else f"cuda:{self.ordinal}"

    def permuted(self, axes: tuple[int, ...]) -> Array:
        """With the axes in another order; no element moves."""
        shape, strides = (tuple(values[axis] for axis in axes) for values in (self.shape, self.strides))
        return Array(self.owner, self.pointer, shape, strides, self.dtype, self.ordinal, self.writable, self.stream)

    def tensor(self, what: str) -> Any:
        """As the C ABI takes it; fewer axes than 4 get sizes of 1 in front."""
        if self.dtype not in DTYPES:
            raise InvalidArgument(f"dtype of {what} must be one of {', '.join(DTYPES)}, got {self.dtype}")
        if len(self.shape) > 4:
            raise InvalidArgument(f"{what}: expected at most 4 axes, got {self.shape}")
        missing = 4 - len(self.shape)
        tensor = struct("tensor", dtype=DTYPES[self.dtype][0], data=self.pointer)
        shape = (1,) * missing + self.shape
        strides = (0,) * missing + self.strides
        # Where the last axis has one element its stride says nothing, and some libraries put anything there.
        strides = (*strides[:3], 1) if shape[3] <= 1 else strides
        for axis in range(4):
            tensor.shape[axis], tensor.strides[axis] = shape[axis], strides[axis]
        on_host = self.ordinal is None
        set_field(tensor, "place", constants["LACUNA_PLACE_HOST" if on_host else "LACUNA_PLACE_CUDA"])
        set_field(tensor, "ordinal", 0 if on_host else self.ordinal)
        return tensor


def view(what: str, given: Any, dtype: str | None = None, stream: int | None = None) -> Array:
    """An array of another library, seen in place.

    `dtype` names the elements of arrays whose library has no such type: "bf16" for uint16 or int16. `stream` is the
    CUDA stream of the call, which DLPack producers make wait for what they write.
    """
    if is_torch(given):
        array = _torch(what, given)
    elif isinstance(given, numpy.ndarray):
        array = _numpy(given)
    elif hasattr(given, "__dlpack__"):
        array = _from_dlpack(what, given, stream)
    elif hasattr(given, "__cuda_array_interface__"):
        array = _cuda(what, given.__cuda_array_interface__, given)
    else:
        expected = "a numpy array, a torch tensor, or an object with __dlpack__ or __cuda_array_interface__"
        raise InvalidArgument(f"{what}: expected {expected}, got {type(given).__name__}")
    if dtype is not None:
        _rename(what, array, dtype)
    return array


def is_torch(given: Any) -> bool:
    """Whether it is a torch tensor; imports nothing."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(given, torch.Tensor)


def _rename(what: str, array: Array, dtype: str) -> None:
    wanted = NAMES.get(dtype, dtype)
    if wanted not in DTYPES:
        raise InvalidArgument(f"dtype must be one of {', '.join(DTYPES)}, got {dtype}")
    if array.dtype in ("uint16", "int16") and wanted in ("bf16", "f16"):
        array.dtype = wanted
    elif array.dtype != wanted:
        raise InvalidArgument(f"dtype of {what} must be {wanted} (or its bits as uint16), got {array.dtype}")


def _numpy(given: numpy.ndarray) -> Array:
    strides = _in_elements("array", given.strides, given.itemsize, given.shape)
    dtype = NAMES.get(given.dtype.name, given.dtype.name) if given.dtype.isnative else f"{given.dtype} (swapped bytes)"
    return Array(given, given.ctypes.data, given.shape, strides, dtype, None, given.flags.writeable, None)


def _torch(what: str, given: Any) -> Array:
    if given.layout is not sys.modules["torch"].strided or given.is_conj() or given.is_neg():
        raise InvalidArgument(
            f"{what}: expected a plain strided tensor, got {given.layout} (conj or neg views resolved)"
        )
    if given.device.type not in ("cpu", "cuda"):
        raise InvalidArgument(f"{what}: expected memory of the CPU or of a CUDA GPU, got {given.device}")
    name = str(given.dtype).removeprefix("torch.")
    ordinal = given.device.index if given.device.type == "cuda" else None
    pointer = given.data_ptr()
    return Array(given, pointer, tuple(given.shape), given.stride(), NAMES.get(name, name), ordinal, True, None)


def _cuda(what: str, interface: dict[str, Any], owner: Any) -> Array:
    if interface.get("mask") is not None:
        raise InvalidArgument(f"{what}: expected an array without a mask")
    shape, typestr = tuple(interface["shape"]), interface["typestr"]
    element = numpy.dtype(typestr)
    strides = interface.get("strides")
    strides = _packed(shape) if strides is None else _in_elements(what, strides, element.itemsize, shape)
    pointer, readonly = interface["data"]
    # The interface does not say which GPU; an array that knows it is asked.
    device = getattr(owner, "device", 0)
    ordinal = device if isinstance(device, int) else getattr(device, "id", 0)
    name = element.name
    stream = interface.get("stream")
    return Array(owner, pointer, shape, strides, NAMES.get(name, name), ordinal, not readonly, stream)


def _from_dlpack(what: str, given: Any, stream: int | None) -> Array:
    found = _dlpack.take(what, given, stream)
    strides = _packed(found.shape) if found.strides is None else found.strides
    name = NAMES.get(found.dtype, found.dtype)
    return Array(found, found.pointer, found.shape, strides, name, found.ordinal, found.writable, None)


def _packed(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _in_elements(what: str, strides: tuple[int, ...], itemsize: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    if any(stride % itemsize for stride, size in zip(strides, shape) if size > 1):
        raise InvalidArgument(f"{what}: expected strides of whole elements of {itemsize} bytes, got {strides}")
    return tuple(stride // itemsize for stride in strides)


def zeros(like: Any, shape: tuple[int, ...], dtype: str | None = None) -> Any:
    """As `empty`, filled."""
    array = empty(like, shape, dtype)
    array[...] = 0
    return array


def empty(like: Any, shape: tuple[int, ...], dtype: str | None = None) -> Any:
    """An array of the same library on the same device; `dtype` None is that of `like`."""
    if is_torch(like):
        torch: Any = sys.modules["torch"]
        types = {"f32": torch.float32, "u8": torch.uint8}
        return torch.empty(shape, dtype=types[dtype] if dtype else like.dtype, device=like.device)
    kinds = {"f32": "float32", "u8": "uint8"}
    if isinstance(like, numpy.ndarray):
        return numpy.empty(shape, kinds[dtype] if dtype else like.dtype)
    if not hasattr(like, "__array_namespace__"):
        raise InvalidArgument(f"{type(like).__name__} cannot make arrays (no __array_namespace__): pass out= and lse=")
    space = like.__array_namespace__()
    return space.empty(shape, dtype=getattr(space, kinds[dtype]) if dtype else like.dtype, device=like.device)
