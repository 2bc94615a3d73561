#!/usr/bin/env python3
"""Copies a FlashInfer wheel without the kernel sources of other GPUs and other operations: 62 MB become 23 MB.

    python3 slim_wheel.py flashinfer_python-VERSION-py3-none-any.whl FOLDER

What stays is all of its Python, CUTLASS and CCCL headers, and the sources that block-sparse attention on Hopper compiles
at first use. Checked with 0.7.2.post1.
"""

import sys
import zipfile
from pathlib import Path

SOURCES = "flashinfer/data/csrc/"
KEPT_FOLDERS = ("cake_vsa_sm90",)
DROPPED_SOURCES = ("cake_", "alphamoe")
DROPPED = (
    "flashinfer/data/cutlass/examples",
    "flashinfer/data/cutlass/python",
    "flashinfer/data/cccl/python",
    "flashinfer/experimental/b12x",
    "flashinfer/moe_ep/kernel_src",
)


def keeps(name):
    if not name.startswith(SOURCES):
        return not name.startswith(DROPPED)
    folder, slash, _ = name[len(SOURCES) :].partition("/")
    return folder in KEPT_FOLDERS if slash else not folder.startswith(DROPPED_SOURCES)


def main():
    wheel, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            if keeps(entry.filename):
                copy.writestr(entry, source.read(entry), zipfile.ZIP_DEFLATED, 9)
    print(f"{target}: {target.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
