"""The C ABI as ctypes sees it, read from the headers that the package ships: there is no second copy to go stale.

The headers are plain C: enums with values, `typedef struct NAME { ... } NAME;` with scalars, pointers and arrays, and
functions that return a status, a number or a text. Anything else stops the import.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

SCALARS: dict[str, Any] = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "uint8_t": ctypes.c_uint8,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "char": ctypes.c_char,
    "lacuna_status": ctypes.c_int32,
}

STRUCT = re.compile(r"typedef struct (\w+) \{(.*?)\} \1;", re.DOTALL)
OPAQUE = re.compile(r"typedef struct (\w+) \1;")
ENUM = re.compile(r"typedef enum \w+ \{(.*?)\}", re.DOTALL)
FUNCTION = re.compile(r"^([\w ]+\*?) (lacuna_\w+)\(([^)]*)\);", re.MULTILINE)
DECLARATION = re.compile(r"(?:const )?(\w+)(\*{0,2}) (\w+)(?:\[(\d+)\])?")


class Header:
    """`constants`: name -> int; `structs`: name -> ctypes.Structure; `functions`: name -> (result, arguments)."""

    def __init__(self, folder: Path) -> None:
        text = "\n".join(_without_comments(folder / name) for name in _in_order(folder))
        self.constants = {name: int(value) for name, value in re.findall(r"#define (LACUNA_\w+) (\d+)", text)}
        for body in ENUM.findall(text):
            for name, value in re.findall(r"(\w+) = (\d+)", body):
                self.constants[name] = int(value)
        self._opaque = set(OPAQUE.findall(text))
        self.structs: dict[str, type[ctypes.Structure]] = {}
        for name, body in STRUCT.findall(text):
            fields = [self._member(member.strip()) for member in body.split(";") if member.strip()]
            self.structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
        self.functions = {name: self._function(result, arguments) for result, name, arguments in FUNCTION.findall(text)}

    def _declaration(self, text: str) -> tuple[Any, ...]:
        match = DECLARATION.fullmatch(re.sub(r"\s+", " ", text))
        if not match:
            raise ImportError(f"lacuna: a declaration that _header.py does not know: {text!r}")
        return match.groups()

    def _member(self, text: str) -> tuple[str, Any]:
        kind, pointer, name, count = self._declaration(text)
        field: Any = ctypes.c_void_p if pointer else SCALARS[kind]
        return name, field * int(count) if count else field

    def _function(self, result: str, arguments: str) -> tuple[Any, list[Any]]:
        given = [] if arguments.strip() == "void" else arguments.split(",")
        return self._result(result), [self._argument(argument.strip()) for argument in given]

    def _result(self, text: str) -> Any:
        return ctypes.c_char_p if text == "const char*" else SCALARS[text]

    def _argument(self, text: str) -> Any:
        kind, pointer, _, count = self._declaration(text)
        if kind in self.structs:
            return ctypes.POINTER(self.structs[kind])
        if pointer == "**":
            return ctypes.POINTER(ctypes.c_void_p)
        if text.startswith("const char*"):
            return ctypes.c_char_p
        # Handles are numbers, host arrays and workspaces addresses; single results are places.
        if kind in self._opaque or kind == "void" or (pointer and text.startswith("const")) or kind == "uint8_t":
            return ctypes.c_void_p
        return ctypes.POINTER(SCALARS[kind]) if pointer or count else SCALARS[kind]


def _without_comments(path: Path) -> str:
    return re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))


def _in_order(folder: Path) -> list[str]:
    """The headers below lacuna.h, each after those that it includes."""
    order: list[str] = []

    def visit(name: str) -> None:
        for included in re.findall(r'#include "([^"]+)"', (folder / name).read_text(encoding="utf-8")):
            visit(included)
        if name not in order:
            order.append(name)

    visit("lacuna.h")
    return order
