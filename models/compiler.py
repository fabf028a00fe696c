"""C++ source to a loaded library, compiled once per machine and kept in the user's cache.

A plain compiler call and ctypes, where torch.utils.cpp_extension would also do: without PyTorch's and
Python's headers a kernel compiles in about two seconds, and needs neither ninja nor their headers installed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from snnbench.errors import SnnbenchError
from snnbench.paths import kernel_dir, write_bytes

# -march=native: whatever this processor can do. No -ffast-math: nan stays nan, and sums keep their order.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-semantic-interposition",
    "-fopenmp-simd",
    "-shared",
    "-fPIC",
    "-Wno-psabi",
)
"""Options for GCC and Clang."""


@cache
def compiler() -> tuple[str, ...] | None:
    """The command of the C++ compiler: $CXX, else c++ or g++ or clang++; None where there is none."""
    if chosen := shlex.split(os.environ.get("CXX", "")):
        program = shutil.which(chosen[0])
        return (program, *chosen[1:]) if program else None
    program = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return (program,) if program else None


@cache
def library(source: str) -> ctypes.CDLL:
    """The compiled and loaded library of a C++ source.

    Raises
    ------
    SnnbenchError
        There is no compiler, or it refuses the source.
    """
    command = compiler()
    if command is None:
        chosen = os.environ.get("CXX")
        what = f"$CXX is {chosen}, which is no program" if chosen else "none of c++, g++, clang++"
        raise SnnbenchError(f"no C++ compiler found ({what})")
    identity = "\n".join((source, *FLAGS, *command, _version(command), _processor()))
    path = kernel_dir() / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.so"
    if _is_whole(path):
        return ctypes.CDLL(str(path))
    with tempfile.TemporaryDirectory(prefix="snnbench-") as folder:
        built = Path(folder) / path.name
        _compile(command, source, built)
        content = built.read_bytes()
        try:
            write_bytes(path, content + hashlib.sha256(content).digest())
        except SnnbenchError:  # a cache that cannot be written only costs time
            return ctypes.CDLL(str(built))
    return ctypes.CDLL(str(path))


def _is_whole(path: Path) -> bool:
    """Whether a library is there and ends with its own hash, which a loader overlooks.

    Loading one that was cut short would end the process, not raise.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _compile(command: tuple[str, ...], source: str, out: Path) -> None:
    text = out.with_suffix(".cpp")
    text.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [*command, *FLAGS, str(text), "-o", str(out), "-lm"], capture_output=True, text=True
    )
    if done.returncode:
        raise SnnbenchError(
            f"{shlex.join(command)} cannot compile a kernel (engine numba does without):\n{done.stderr}"
        )


def _version(command: tuple[str, ...]) -> str:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    return done.stdout.partition("\n")[0]


def _processor() -> str:
    # a cache in a home that machines share: what is native to one is not to all
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("flags")), "")
