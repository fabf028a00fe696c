"""Arrays that may be larger than memory: beyond a limit they lie in a temporary file.

The file is mapped into memory, so that it is used like any array while the kernel writes it out and
reads it back as needed. It has no name: it is gone with the process, however that ends.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from snnbench.errors import SnnbenchError
from snnbench.paths import data_dir

log = logging.getLogger(__name__)

_ALIGNED = 64  # bytes: a cache line


def available_memory() -> int:
    """Memory in bytes that programs can have without swapping, as Linux estimates it."""
    with open("/proc/meminfo", encoding="ascii") as file:
        facts = dict(line.split(":", 1) for line in file)
    return 1024 * int(facts["MemAvailable"].split()[0])


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
