"""The shared library: found, loaded, called."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from . import _errors
from ._header import Header

FOLDER = Path(__file__).parent


def _find() -> Path:
    """The library beside this file, or the one that LACUNA_LIBRARY names."""
    named = os.environ.get("LACUNA_LIBRARY")
    path = Path(named) if named else FOLDER / "liblacuna.so"
    if not path.is_file():
        where = "which LACUNA_LIBRARY names" if named else "which the wheel brings along"
        raise ImportError(f"lacuna: there is no library {path}, {where}")
    return path


def _headers() -> Path:
    """The folder of lacuna.h: that of the wheel, or of a source tree."""
    packaged = FOLDER / "include"
    return packaged if packaged.is_dir() else FOLDER.parents[1] / "capi" / "include"


header = Header(_headers())
constants = header.constants
_library = ctypes.CDLL(str(_find()))
for _name, (_result, _arguments) in header.functions.items():
    _function = getattr(_library, _name)
    _function.restype = _result
    _function.argtypes = _arguments

_mine = tuple(constants[f"LACUNA_VERSION_{part}"] for part in ("MAJOR", "MINOR", "PATCH"))
_number = _library.lacuna_version()
_theirs = (_number >> 16, _number >> 8 & 255, _number & 255)
if _mine[:2] != _theirs[:2]:
    raise ImportError(f"lacuna: the library has version {_theirs}, this package is for {_mine}")


def version() -> str:
    """The version of the library."""
    return ".".join(map(str, _theirs))


def build() -> str:
    """The machines that the library has kernels for: "simt", "cuda" or "simt, cuda"."""
    return str(_library.lacuna_build().decode())


def call(name: str, *arguments: Any) -> None:
    """Calls `lacuna_<name>`; its failure is an exception with its text."""
    status = getattr(_library, f"lacuna_{name}")(*arguments)
    if status:
        text = _library.lacuna_last_error().decode(errors="replace")
        raise _errors.make(_library.lacuna_status_name(status).decode(), text)


def struct(name: str, **fields: Any) -> Any:
    """A struct of the ABI with its defaults and these fields."""
    value = header.structs[f"lacuna_{name}"]()
    call(f"{name}_init", ctypes.byref(value), ctypes.sizeof(value))
    for field, given in fields.items():
        set_field(value, field, given)
    return value


def set_field(value: ctypes.Structure, field: str, given: Any) -> None:
    """Sets a field; a number that it cannot hold is an error, as ctypes would cut it silently."""
    try:
        setattr(value, field, given)
    except TypeError as error:
        raise _errors.InvalidArgument(f"{field}: {error}") from None
    if isinstance(given, int) and getattr(value, field) != given:
        raise _errors.InvalidArgument(f"{field} does not fit the C ABI: {given}")


class Handle:
    """An object of the library, destroyed with this one."""

    def __init__(self, kind: str, create: str, *arguments: Any) -> None:
        """Calls `lacuna_<create>(*arguments, &handle)`; `lacuna_<kind>_destroy` ends it."""
        self._kind = kind
        self.value: int | None = None
        place = ctypes.c_void_p()
        call(create, *arguments, ctypes.byref(place))
        self.value = place.value

    def __del__(self) -> None:
        # At the end of the process the module may be gone before its objects.
        if getattr(self, "value", None) is not None and _library is not None:
            getattr(_library, f"lacuna_{self._kind}_destroy")(self.value)
            self.value = None
