"""ctypes structs read from cuda/lacuna_kernels.h and what it includes, the single source of the ABI: there is no second
copy to go stale.

The headers are plain C: `typedef struct NAME { ... } NAME;` with scalar, pointer, array and struct members, enums with
values, and one table of function pointers. Anything else stops the import, and the self test compares every size and
offset with what the C compiler says.
"""

import ctypes
import re
from pathlib import Path

SCALARS = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "char": ctypes.c_char,
}

INCLUDE = re.compile(r'^#include "(.*)"$', re.MULTILINE)
STRUCT = re.compile(r"typedef struct (\w+) \{(.*?)\} \1;", re.DOTALL)
ENUM = re.compile(r"typedef enum \w+ \{(.*?)\}", re.DOTALL)
FUNCTION = re.compile(r"(const char\*|int32_t) \(\*(\w+)\)\((.*)\)")
MEMBER = re.compile(r"(?:const )?(\w+)(\*?) (\w+)(?:\[(\d+)\])?")


class Header:
    """`structs`: name -> ctypes.Structure; `constants`: name -> int."""

    def __init__(self, path):
        text = re.sub(r"//[^\n]*", "", self._with_includes(Path(path), set()))
        self.constants = {name: int(value) for name, value in re.findall(r"#define (LACUNA_\w+) (\d+)", text)}
        for body in ENUM.findall(text):
            for entry in body.split(","):
                name, value = entry.split("=")
                self.constants[name.strip()] = int(value)
        self.structs = {}
        for name, body in STRUCT.findall(text):
            members = [line.strip() for line in re.sub(r"\s+", " ", body).split(";") if line.strip()]
            fields = [self._member(member) for member in members]
            self.structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
        if len(self.structs) != text.count("typedef struct") - len(re.findall(r"typedef struct \w+ \w+;", text)):
            raise ValueError(f"{path}: a struct has a form that this reader does not know")

    def _with_includes(self, path, seen):
        """The text of a header, with each header that it includes in quotes where it is first included."""
        if path in seen:
            return ""
        seen.add(path)
        text = path.read_text(encoding="utf-8")
        return INCLUDE.sub(lambda found: self._with_includes(path.parent / found.group(1), seen), text)

    def _member(self, text):
        function = FUNCTION.fullmatch(text)
        if function:
            result, name, _ = function.groups()
            arguments = [ctypes.c_void_p] * len(re.findall(r"[^,()]*\*\s*\w+", function.group(3)))
            return name, ctypes.CFUNCTYPE(ctypes.c_char_p if "*" in result else ctypes.c_int32, *arguments)
        member = MEMBER.fullmatch(text)
        if not member:
            raise ValueError(f"a member that this reader does not know: {text!r}")
        kind, pointer, name, count = member.groups()
        if pointer:
            return name, ctypes.c_char_p if kind == "char" else ctypes.c_void_p
        field = SCALARS.get(kind) or self.structs[kind]
        return name, field * int(count) if count else field

    def layout_program(self):
        """A C program that prints `struct size` and `struct.member offset size` lines, for comparison with `layout`."""
        lines = ['#include <stddef.h>', '#include <stdio.h>', '#include "lacuna_kernels.h"', "int main(void) {"]
        for name, struct in self.structs.items():
            lines.append(f'  printf("{name} %zu\\n", sizeof({name}));')
            for member, _ in struct._fields_:
                lines.append(
                    f'  printf("{name}.{member} %zu %zu\\n", offsetof({name}, {member}), '
                    f"sizeof((({name}*)0)->{member}));"
                )
        for name in self.constants:
            lines.append(f'  printf("{name} %d\\n", (int){name});')
        return "\n".join([*lines, "  return 0;", "}", ""])

    def layout(self):
        """What `layout_program` prints if this reader is right."""
        lines = []
        for name, struct in self.structs.items():
            lines.append(f"{name} {ctypes.sizeof(struct)}")
            for member, _ in struct._fields_:
                field = getattr(struct, member)
                lines.append(f"{name}.{member} {field.offset} {field.size}")
        lines += [f"{name} {value}" for name, value in self.constants.items()]
        return "\n".join([*lines, ""])
