"""HDF5 files that appear whole or not at all, also on a disk that fills up."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from snnbench.paths import whole_file


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
