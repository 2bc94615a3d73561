"""Shapes and options of a call, as Python and as the C ABI have them."""

from __future__ import annotations

import ctypes
import operator
from dataclasses import dataclass, field
from typing import Any

from ._arrays import DTYPES, NAMES, Array
from ._errors import InvalidArgument
from ._library import constants, struct

FAMILIES = {name: constants[f"LACUNA_FAMILY_{name.upper()}"] for name in ("auto", "portable", "hopper")}


def integer(what: str, value: Any) -> int:
    """An integer that a 64-bit field holds; numpy's are integers too, floats and bools are not."""
    if isinstance(value, bool):
        raise InvalidArgument(f"{what} must be an integer, got {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgument(f"{what} must be an integer, got {value!r}") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise InvalidArgument(f"{what} must fit 64 bits, got {number}")
    return number


@dataclass(frozen=True)
class Shape:
    """Sizes of an attention problem.

    Query head h reads KV head h * kv_heads // q_heads. Query t of a sequence sits at key position t + kv_len - q_len:
    the last query is aligned with the last key.
    """

    batch: int
    q_heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    #: "f16" or "bf16"
    dtype: str = "bf16"

    def to_abi(self) -> Any:
        dtype = NAMES.get(self.dtype, self.dtype)
        if dtype not in DTYPES:
            raise InvalidArgument(f"dtype must be f16 or bf16, got {self.dtype}")
        sizes = ("batch", "q_heads", "kv_heads", "q_len", "kv_len", "head_dim")
        values = {name: integer(name, getattr(self, name)) for name in sizes}
        return struct("shape", dtype=DTYPES[dtype][0], **values)


@dataclass(frozen=True)
class Options:
    """What a call asks for beside its plan; tensors are views of the caller's arrays."""

    causal: bool = False
    window: tuple[int | None, int | None] = (None, None)
    scale: float | None = None
    softcap: float | None = None
    splits: int = 1
    family: str = "auto"
    page_size: int = 0
    sink: Array | None = field(default=None, compare=False)
    block_table: Array | None = field(default=None, compare=False)
    #: Whether lengths are on the device: such calls have schedules of their own.
    ragged: bool = False
    cu_seqlens_q: Array | None = field(default=None, compare=False)
    cu_seqlens_k: Array | None = field(default=None, compare=False)
    kv_lens: Array | None = field(default=None, compare=False)

    def to_abi(self) -> Any:
        """The struct of the C ABI; it keeps the tensors that it points to."""
        if self.family not in FAMILIES:
            raise InvalidArgument(f"family must be one of {', '.join(FAMILIES)}, got {self.family!r}")
        flags = constants["LACUNA_CAUSAL"] if self.causal else 0
        values: dict[str, Any] = {"splits": _int32("splits", self.splits), "family": FAMILIES[self.family]}
        left, right = _window(self.window)
        optional = {"window_left": left, "window_right": right, "scale": self.scale, "softcap": self.softcap}
        for name, value in optional.items():
            if value is not None:
                flags |= constants[f"LACUNA_{name.upper()}"]
                values[name] = integer(name, value) if name.startswith("window") else float(value)
        options = struct("options", flags=flags, page_size=integer("page_size", self.page_size), **values)
        if options.splits < 1:
            raise InvalidArgument(f"splits must be at least 1, got {options.splits}")
        options.kept = []
        for name in ("sink", "block_table", "cu_seqlens_q", "cu_seqlens_k", "kv_lens"):
            array = getattr(self, name)
            if array is not None:
                tensor = array.tensor(name)
                options.kept.append(tensor)
                setattr(options, name, ctypes.addressof(tensor))
        return options


def _window(window: Any) -> tuple[Any, Any]:
    if window is None:
        return None, None
    try:
        left, right = window
    except (TypeError, ValueError):
        raise InvalidArgument(f"window must be (left, right), each an integer or None, got {window!r}") from None
    return left, right


def _int32(what: str, value: Any) -> int:
    number = integer(what, value)
    if not -(1 << 31) <= number < 1 << 31:
        raise InvalidArgument(f"{what} must fit 32 bits, got {number}")
    return number
