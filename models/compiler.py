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
from contextlib import suppress
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
        There is no compiler, it refuses the source, or what it makes cannot be loaded. The first line says
        which; a compiler's own words follow.
    """
    command = compiler()
    if command is None:
        chosen = os.environ.get("CXX")
        what = f"$CXX is {chosen}, which is no program" if chosen else "none of c++, g++, clang++"
        raise SnnbenchError(f"no C++ compiler found ({what})")
    identity = "\n".join((source, *FLAGS, *command, _version(command), _processor()))
    path = kernel_dir() / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.so"
    if _is_whole(path):
        with suppress(OSError):  # what does not load is made anew
            return ctypes.CDLL(str(path))
    try:
        with tempfile.TemporaryDirectory(prefix="snnbench-") as folder:
            built = Path(folder) / path.name
            _compile(command, source, built)
            return _kept(built, path) or ctypes.CDLL(str(built))
    except OSError as error:
        raise SnnbenchError(
            f"{shlex.join(command)}: a kernel cannot be built and loaded ({error})"
        ) from None


def _kept(built: Path, path: Path) -> ctypes.CDLL | None:
    """A new library, moved to its place in the cache and loaded from there.

    None where the folder cannot be written, or nothing in it may run: that only costs time.
    """
    content = built.read_bytes()
    try:
        write_bytes(path, content + hashlib.sha256(content).digest())
        return ctypes.CDLL(str(path))
    except (SnnbenchError, OSError):
        return None


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
    done = _run([*command, *FLAGS, str(text), "-o", str(out), "-lm"])
    if done.returncode:
        said = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        problem = next((line for line in said if "error" in line), said[0])
        # without the name of a file that is gone when somebody reads this
        problem = problem.replace(str(text), "kernel").strip()
        raise SnnbenchError(
            f"{shlex.join(command)} cannot compile a kernel ({problem})\n{done.stderr}".rstrip()
        )
    if not out.is_file():
        raise SnnbenchError(f"{shlex.join(command)} is no C++ compiler: it has written nothing")


def _version(command: tuple[str, ...]) -> str:
    return _run([*command, "--version"]).stdout.partition("\n")[0]


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},  # in the words that we look for
        )
    except OSError as error:  # marked as a program, but none: a script without its first line
        raise SnnbenchError(f"{words[0]}: cannot be run as a compiler ({error.strerror})") from None


def _processor() -> str:
    # a cache in a home that machines share: what is native to one is not to all
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("flags")), "")
