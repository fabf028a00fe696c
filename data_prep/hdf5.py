"""HDF5 files that appear whole or not at all, also on a disk that fills up; and reading those of others."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from snnbench.paths import whole_file

_DEFLATE_RATIO = 1032
"""The most that gzip can expand."""


def own_array(group: h5py.Group, name: str) -> h5py.Dataset:
    """The array `name` of a group, as long as it lies in this file with all its values.

    HDF5 lets a file say that an array is in another file, or that it has more values than were ever
    written, which would be made up as zeros in memory.

    Raises
    ------
    KeyError
        There is no such array.
    ValueError
        It is none, or not one that this file holds.
    """
    array = group[name]
    if not isinstance(array, h5py.Dataset) or array.shape is None:
        raise ValueError("is not an array")
    if array.file.filename != group.file.filename or array.is_virtual or array.external:
        raise ValueError("is kept in another file; a data file holds all of its arrays")
    stored = array.id.get_storage_size()
    if array.size * array.dtype.itemsize > _DEFLATE_RATIO * stored:
        raise ValueError(
            f"claims {array.size:,} values, more than the file's {stored:,} bytes hold"
        )
    return array


@contextmanager
def whole_hdf5(path: Path | str) -> Iterator[h5py.File]:
    """A new HDF5 file that appears whole when the block ends without an error."""
    with whole_file(path) as temporary, _ForgivingFile(temporary, "r+") as target:
        try:
            # this version of the format has checksums on its own bookkeeping too
            with h5py.File(target, "w", libver=("v110", "v110")) as file:
                yield file
        except Exception:
            if target.error is None:
                raise
        if target.error is not None:
            raise target.error


class _ForgivingFile(io.FileIO):
    """A file that keeps the first failed write to itself, and takes all later ones for written.

    HDF5 cannot close a file that it cannot write to, and crashes with it at the end of the process.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0
