"""Builds liblacuna with cargo and puts it, with its headers, beside the Python files: one wheel for every Python 3.

The tree around this folder is what is built. LACUNA_FEATURES names other features than `simt`, for example `simt,cuda`.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

ROOT = Path(__file__).resolve().parent.parent
CAPI = ROOT / "capi"
VERSION = re.search(r'^version = "(.+)"', (CAPI / "Cargo.toml").read_text(), re.MULTILINE).group(1)


def build_library() -> Path:
    """liblacuna.so with the C++ runtime inside: a machine with Python need not have it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target" / "wheel" / "cargo")).resolve()
    environment = {"CXXSTDLIB_STATIC": "stdc++", **os.environ, "CARGO_TARGET_DIR": str(target)}
    features = os.environ.get("LACUNA_FEATURES") or "simt"
    command = ["cargo", "build", "--release", "-p", "lacuna-capi", "--no-default-features", "--features", features]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return target / "release" / "liblacuna.so"


class BuildWithLibrary(build_py):
    def run(self) -> None:
        super().run()
        package = Path(self.build_lib) / "lacuna"
        shutil.copy2(build_library(), package)
        shutil.copytree(CAPI / "include", package / "include", dirs_exist_ok=True)


class PlatformWheel(bdist_wheel):
    """py3-none-PLATFORM: no Python ABI, but machine code, which needs a C library as new as its newest symbol."""

    def get_tag(self) -> tuple[str, str, str]:
        platform = super().get_tag()[2]
        library = Path(self.bdist_dir) / "lacuna" / "liblacuna.so"
        if platform.startswith("linux_") and library.is_file():
            report = subprocess.run(["readelf", "--version-info", "--wide", library], capture_output=True, text=True)
            minor = max((int(number) for number in re.findall(r"GLIBC_2\.(\d+)", report.stdout)), default=None)
            if minor is not None:
                platform = platform.replace("linux_", f"manylinux_2_{max(minor, 17)}_")
        return "py3", "none", platform


class HasMachineCode(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(
    version=VERSION,
    distclass=HasMachineCode,
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel},
)
