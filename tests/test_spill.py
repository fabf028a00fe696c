"""Arrays beyond the limit lie in a file without a name; what cannot be kept is told before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from snnbench.data_prep.spill import available_memory, make_arrays

SIZES = {"a": ((3, 5), np.int32), "b": ((0,), np.uint16), "c": ((70,), np.uint16)}


def mapped_files() -> list[str]:
    """Deleted files that this process has mapped into memory."""
    return [
        line for line in Path("/proc/self/maps").read_text().splitlines() if "(deleted)" in line
    ]


@pytest.mark.parametrize("in_file", [False, True])
def test_arrays_hold_what_is_written_to_them(tmp_path: Path, in_file: bool):
    before = len(mapped_files())
    arrays = make_arrays(SIZES, 0 if in_file else 10_000)
    assert len(mapped_files()) == before + in_file
    for number, (name, (shape, dtype)) in enumerate(SIZES.items()):
        assert (arrays[name].shape, arrays[name].dtype) == (shape, np.dtype(dtype))
        assert type(arrays[name]) is np.ndarray  # what compiled code takes without a detour
        arrays[name][...] = number + 1
    assert [int(arrays[name].sum()) for name in SIZES] == [15, 0, 210]
    folder = tmp_path / "data"
    assert list(folder.iterdir() if folder.exists() else []) == []


def test_the_limit_counts_whole_cache_lines():
    before = len(mapped_files())
    inside = make_arrays(SIZES, 64 + 0 + 192)
    assert len(mapped_files()) == before
    beyond = make_arrays(SIZES, 64 + 0 + 192 - 1)
    assert len(mapped_files()) == before + 1
    del inside, beyond
    assert len(mapped_files()) == before


def test_the_disk_is_reserved_at_once():
    # a hole in the file would be a bus error as soon as another program has filled the disk
    before = mapped_files()
    arrays = make_arrays({"a": ((1 << 20,), np.uint8)}, 0)
    (new,) = set(mapped_files()) - set(before)
    place = Path("/proc/self/map_files", new.split()[0])
    try:
        blocks = place.stat().st_blocks
    except PermissionError:
        pytest.skip("this kernel shows mapped files to the administrator only")
    assert len(arrays["a"]) <= 512 * blocks


FILL_THE_DISK = """
import resource, sys
from snnbench.data_prep.spill import make_arrays
from snnbench.errors import SnnbenchError
# Python ignores the signal SIGXFSZ; a file beyond the limit then fails as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    make_arrays({"a": ((3 << 20,), "u1")}, 1 << 20)
except SnnbenchError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_no_room_is_told_and_leaves_nothing(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'data'}: no room for 3 MiB of spikes")
    assert "SNNBENCH_DATA" in done.stdout
    assert list((tmp_path / "data").iterdir()) == []


def test_available_memory_is_some_and_not_more_than_there_is():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_memory() <= total
