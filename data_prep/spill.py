"""Arrays that may be larger than memory: beyond a limit they lie in a temporary file.

The file is mapped into memory, so that it is used like any array while the kernel writes it out and
reads it back as needed. It has no name: it is gone with the process, however that ends.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from snnbench.errors import SnnbenchError
from snnbench.paths import data_dir

log = logging.getLogger(__name__)

_ALIGNED = 64  # bytes: a cache line
# limit, use and pages of files of a group: names of files, and of lines of memory.stat
_VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_VERSION_1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory in bytes that this process can have without swapping.

    What Linux estimates for the machine, or what the groups of processes that this one is in (a container's,
    a batch system's) or its own address space (`ulimit -v`) have left of their limits, where that is less.
    The folders are where Linux tells.
    """
    with open(proc / "meminfo", encoding="ascii") as file:
        facts = dict(line.split(":", 1) for line in file)
    of_machine = 1024 * int(facts["MemAvailable"].split()[0])
    groups = _left_in_groups(proc / "self" / "cgroup", cgroups)
    return max(0, min([of_machine, *groups, *_left_of_address_space()]))


def _left_of_address_space() -> Iterator[int]:
    """Bytes, where this process has such a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        pages = Path("/proc/self/statm").read_text("ascii").split()[0]
        yield limit - int(pages) * resource.getpagesize()


def _left_in_groups(memberships: Path, cgroups: Path) -> Iterator[int]:
    """Bytes that are left to each group with a limit that the process is in."""
    try:
        lines = memberships.read_text("utf-8").splitlines()
    except OSError:  # a kernel without groups
        return
    for line in lines:
        # 0::/a/b in version 2, 4:cpu,memory:/a/b in version 1
        _, controllers, group = line.split(":", 2)
        if not controllers:
            root, names = cgroups, _VERSION_2
        elif "memory" in controllers.split(","):
            root, names = cgroups / "memory", _VERSION_1
        else:
            continue
        # a limit holds for all groups within, and a container may see its own group as the root
        path = root / group.lstrip("/")
        for folder in (path, *path.parents):
            if folder.is_relative_to(root) and (left := _left(folder, *names)) is not None:
                yield left


def _left(folder: Path, limit: str, used: str, of_files: Sequence[str]) -> int | None:
    """Bytes between a group's use and its limit; None without a limit."""
    try:
        free = int((folder / limit).read_text()) - int((folder / used).read_text())
    except (OSError, ValueError):  # no such group here; `max`
        return None
    with suppress(OSError):
        # pages of files that were read count as used, and are given back when memory is asked for
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        free += sum(int(facts.get(name, 0)) for name in of_files)
    return max(0, free)


def make_arrays(
    sizes: Mapping[str, tuple[tuple[int, ...], DTypeLike]], memory_bytes: int
) -> dict[str, NDArray[Any]]:
    """New arrays of these shapes and types, in memory if all of them fit into `memory_bytes`.

    Raises
    ------
    SnnbenchError
        They do not fit, and the data folder (SNNBENCH_DATA) has no room for them either.
    """
    total = sum(_padded(shape, dtype) for shape, dtype in sizes.values())
    if total <= memory_bytes:
        return {name: np.empty(shape, dtype) for name, (shape, dtype) in sizes.items()}
    memory = _mapped_bytes(total)
    arrays, at = {}, 0
    for name, (shape, dtype) in sizes.items():
        part = memory[at : at + _n_bytes(shape, dtype)]
        arrays[name] = part.view(dtype).reshape(shape)
        at += _padded(shape, dtype)
    return arrays


def _mapped_bytes(n_bytes: int) -> NDArray[np.uint8]:
    # not the system's folder for temporary files, which often is memory itself
    folder = data_dir()
    log.info("%d MiB of spikes are kept in a file in %s", n_bytes >> 20, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".spikes-") as file:
            # reserved now: a disk that fills up later would end the process with a bus error
            os.posix_fallocate(file.fileno(), 0, n_bytes)
            return np.asarray(np.memmap(file, np.uint8, "r+"))
    except OSError as error:
        raise SnnbenchError(
            f"{folder}: no room for {n_bytes >> 20} MiB of spikes, which do not fit into memory"
            f" ({error.strerror or error}; {_free_bytes(folder) >> 20} MiB free);"
            " free some, or move the folder with SNNBENCH_DATA"
        ) from None


def _free_bytes(folder: os.PathLike[str]) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _n_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _padded(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return -(-_n_bytes(shape, dtype) // _ALIGNED) * _ALIGNED
