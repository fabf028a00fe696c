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


MEMINFO = "MemTotal: 900 kB\nMemAvailable:     800 kB\nHugePages_Total: 0\n"
NO_LIMIT = str(2**63 - 4096)  # as version 1 writes it


def available_with(folder: Path, memberships: str, groups: dict[str, dict[str, int | str]]) -> int:
    """Available kB of a machine with 800 kB, where the process is in such groups."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "meminfo").write_text(MEMINFO)
    (folder / "proc" / "self" / "cgroup").write_text(memberships)
    for group, files in groups.items():
        (folder / "cgroup" / group).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / "cgroup" / group / name).write_text(f"{content}\n")
    return available_memory(folder / "proc", folder / "cgroup") >> 10


def version_1(limit: int | str, used: int, of_files: int = 0) -> dict[str, int | str]:
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": used,
        "memory.stat": f"inactive_file 999\ntotal_inactive_file {of_files}\ntotal_active_file 0",
    }


def version_2(limit: int | str, used: int, of_files: int = 0) -> dict[str, int | str]:
    return {
        "memory.max": limit,
        "memory.current": used,
        "memory.stat": f"anon 5\ninactive_file 0\nactive_file {of_files}",
    }


KB = 1024


@pytest.mark.parametrize(
    ("memberships", "groups", "left"),
    [
        ("0::/\n", {}, 800),
        ("0::/\n", {".": version_2("max", 300 * KB)}, 800),
        ("0::/\n", {".": version_2(500 * KB, 300 * KB)}, 200),
        # pages of files are given back
        ("0::/\n", {".": version_2(500 * KB, 300 * KB, 250 * KB)}, 450),
        ("0::/\n", {".": version_2(500 * KB, 600 * KB)}, 0),
        ("0::/\n", {".": version_2(9000 * KB, 0)}, 800),
        # a limit of the job that holds for its steps, and the other way round
        ("0::/job/step\n", {"job": version_2(90 * KB, 0), "job/step": version_2("max", 0)}, 90),
        ("0::/job/step\n", {"job": version_2(90 * KB, 0), "job/step": version_2(70 * KB, 0)}, 70),
        # somebody else's
        ("0::/job\n", {"job": version_2("max", 0), "other": version_2(10 * KB, 0)}, 800),
        ("3:cpu:/a\n4:memory:/a\n", {"memory/a": version_1(500 * KB, 100 * KB)}, 400),
        ("4:memory,cpu:/a\n", {"memory/a": version_1(500 * KB, 100 * KB, 50 * KB)}, 450),
        ("4:memory:/a\n0::/\n", {"memory/a": version_1(NO_LIMIT, 100 * KB)}, 800),
        # a container that is told its name outside, and sees its group as the root
        ("4:memory:/docker/1a2b\n", {"memory": version_1(500 * KB, 100 * KB)}, 400),
        ("0::/../elsewhere\n", {".": version_2(500 * KB, 100 * KB)}, 400),
        ("", {".": version_2(500 * KB, 300 * KB)}, 800),
    ],
)
def test_a_limit_of_the_processes_group_is_respected(
    tmp_path: Path, memberships: str, groups: dict[str, dict[str, int | str]], left: int
):
    assert available_with(tmp_path, memberships, groups) == left


def test_a_group_that_does_not_tell_its_files_has_a_limit_all_the_same(tmp_path: Path):
    files = version_2(500 * KB, 100 * KB)
    del files["memory.stat"]
    assert available_with(tmp_path, "0::/\n", {".": files}) == 400


def test_without_groups_the_machine_alone_counts(tmp_path: Path):
    available_with(tmp_path, "", {})
    (tmp_path / "proc" / "self" / "cgroup").unlink()
    assert available_memory(tmp_path / "proc", tmp_path / "cgroup") == 800 * KB


def test_available_memory_is_some_and_not_more_than_there_is():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_memory() <= total
