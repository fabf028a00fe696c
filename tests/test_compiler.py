"""Compiled libraries: made once, found again by other processes, made anew when damaged, never required."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snnbench.errors import SnnbenchError
from snnbench.models.compiler import compiler, library
from tests.scan_cases import needs_compiler

ANSWER = 'extern "C" int answer() {{ return {}; }}\n'

RUN = """
import sys
from snnbench.models.compiler import library
print(library(sys.argv[1]).answer())
"""

CHOOSE = """
import logging
import torch
from snnbench.errors import SnnbenchError
from snnbench.models.engines import require_engine, resolve_engine
logging.basicConfig(format="%(levelname)s %(message)s")
resolve_engine("auto", torch.device("cpu"))  # as every scan does: told once
for engine in ("auto", "cpp"):
    try:
        print(require_engine(engine, torch.device("cpu")))
    except SnnbenchError as error:
        print(error)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache of this test and the processes it starts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip(), err


def answer_of(n: int) -> str:
    """What a new process gets from the library that returns `n`."""
    return finish(start(RUN, ANSWER.format(n)))[0]


def compiler_path() -> str:
    command = compiler()
    assert command is not None
    return command[0]


def script(path: Path, *lines: str) -> str:
    """A program of these lines of shell."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


def libraries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.so"))


@needs_compiler
def test_another_process_finds_what_one_has_made(cache: Path):
    assert answer_of(42) == "42"
    (made,) = libraries(cache)
    before = made.stat()
    assert answer_of(42) == "42"
    (found,) = libraries(cache)
    after = found.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@needs_compiler
def test_another_source_is_another_library(cache: Path):
    assert library(ANSWER.format(7)).answer() == 7
    assert library(ANSWER.format(8)).answer() == 8
    assert len(libraries(cache)) == 2


@needs_compiler
def test_another_compiler_makes_a_library_of_its_own(cache: Path, tmp_path: Path):
    other = script(
        tmp_path / "other-c++",
        '[ "$1" = --version ] && echo "another compiler 1.0" && exit',
        f'exec {compiler_path()} "$@"',
    )
    assert answer_of(5) == "5"
    assert finish(start(RUN, ANSWER.format(5), CXX=other))[0] == "5"
    assert len(libraries(cache)) == 2


@needs_compiler
@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"no library",
        lambda whole: whole[:100],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
        lambda whole: b"no library" + hashlib.sha256(b"no library").digest(),
    ],
    ids=["empty", "text", "beginning", "half", "one-bit", "hash-fits"],
)
def test_a_damaged_library_is_made_anew(cache: Path, damage):
    assert answer_of(13) == "13"
    (made,) = libraries(cache)
    whole = made.read_bytes()
    made.write_bytes(damage(whole))
    assert answer_of(13) == "13"
    assert libraries(cache)[0].read_bytes() == whole


@needs_compiler
def test_a_cache_that_cannot_be_written_only_costs_time(cache: Path):
    cache.write_text("a file where a folder should be")
    assert answer_of(21) == "21"
    assert cache.read_text() == "a file where a folder should be"


@needs_compiler
def test_processes_that_compile_at_once_all_get_the_library(cache: Path):
    processes = [start(RUN, ANSWER.format(99)) for _ in range(4)]
    assert [finish(p)[0] for p in processes] == ["99"] * 4
    assert len(libraries(cache)) == 1
    assert [p.name for p in libraries(cache)[0].parent.iterdir()] == [libraries(cache)[0].name]


@needs_compiler
def test_a_refused_source_names_the_compiler_and_what_it_said(cache: Path):
    with pytest.raises(SnnbenchError, match="cannot compile") as caught:
        library("this is no C++\n")
    assert compiler_path() in str(caught.value)
    assert "error:" in str(caught.value)
    assert not libraries(cache)


@pytest.mark.parametrize("how", ["CXX", "PATH"])
def test_without_a_compiler_numba_takes_over_and_says_so(cache: Path, tmp_path: Path, how: str):
    missing = str(tmp_path / "nowhere" / "g++")
    environment = {"CXX": missing} if how == "CXX" else {"CXX": "", "PATH": str(tmp_path)}
    assert shutil.which("g++", path=str(tmp_path)) is None
    out, err = finish(start(CHOOSE, **environment))
    auto, cpp = out.splitlines()
    assert auto == "numba"
    [line] = err.splitlines()
    assert line.startswith("WARNING no C++ compiler")
    assert "numba" in line
    assert (f"$CXX is {missing}" in line) == (how == "CXX")
    assert cpp.startswith("engine cpp: no C++ compiler found (")
    assert cpp.endswith("; take auto, or numba, which is slower")
    assert not libraries(cache)


COMPILERS = {
    # knows C++, but not the kernels' vectors
    "old": (
        [
            "for source; do case $source in *.cpp) break;; esac; done",
            'grep -q vector_size $source || exec c++ "$@"',
            "echo \"In it:\n$source:25: error: 'vector_size' is unknown\" >&2; exit 1",
        ],
        "cannot compile a kernel (kernel:25: error: 'vector_size' is unknown)",
    ),
    "for another machine": (
        ['while [ "$1" != -o ]; do [ $# = 0 ] && exit; shift; done; echo "for ARM" > "$2"'],
        "a kernel cannot be built and loaded (",
    ),
    "silent": (["exit 3"], "cannot compile a kernel (exit code 3)"),
    "no compiler": (["exit 0"], "is no C++ compiler"),
}


@needs_compiler
@pytest.mark.parametrize("kind", COMPILERS)
def test_a_compiler_that_makes_no_kernels_is_as_good_as_none(
    cache: Path, tmp_path: Path, kind: str
):
    lines, problem = COMPILERS[kind]
    program = script(tmp_path / "c++-of-somebody", *lines)
    out, err = finish(start(CHOOSE, CXX=program))
    auto, cpp = out.splitlines()
    assert auto == "numba"
    [line] = err.splitlines()
    assert line.startswith(f"WARNING {program}")
    assert cpp.startswith(f"engine cpp: {program}")
    assert problem in line
    assert problem in cpp


def test_a_program_that_does_not_start_is_named(cache: Path, tmp_path: Path):
    program = tmp_path / "c++"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    out, err = finish(start(CHOOSE, CXX=str(program)))
    assert out.startswith("numba\nengine cpp: ")
    assert f"{program}: cannot be run as a compiler" in err


@needs_compiler
def test_a_compiler_may_be_named_with_options(cache: Path):
    assert finish(start(RUN, ANSWER.format(17), CXX=f"{compiler_path()} -pipe"))[0] == "17"
    assert len(libraries(cache)) == 1


@needs_compiler
def test_with_a_compiler_nothing_is_said(cache: Path):
    assert finish(start(CHOOSE)) == ("cpp\ncpp", "")
