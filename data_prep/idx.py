"""IDX files, the format of MNIST: a header of sizes and then bytes, packed by gzip or not.

    0 0 8 n      two zeros, 8 for unsigned bytes, number of dimensions
    n sizes      big-endian 32 bits each; the first is the number of images or labels
    values       one byte each, the last dimension fastest

A data set is four files: images and labels to train on, images and labels to test on. An image keeps its
place in its file for a name (train/00007), and its pixels are numbered row by row.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.recipe import Recipe
from snnbench.data_prep.sources import NO_GROUPS, Listing, Recording
from snnbench.errors import SnnbenchError, UsageError

_UNSIGNED_BYTES = 8
_TYPES = {
    9: "signed bytes",
    11: "16-bit integers",
    12: "32-bit integers",
    13: "floats",
    14: "doubles",
}
_DEFLATE_RATIO = 1032
"""The most that gzip can expand: a header that promises more than this from a file is wrong."""


class Idx(NamedTuple):
    """An IDX file in memory."""

    values: NDArray[np.uint8]
    """Shape as the header says, not writable."""
    content: bytes
    """The file, unpacked."""


def read_idx(path: Path, n_dims: int) -> Idx:
    """Read an IDX file of unsigned bytes with `n_dims` dimensions, packed by gzip or not.

    Raises
    ------
    SnnbenchError
        Naming the file, what was found and what was expected: it is no such file, is damaged, or holds
        fewer or more bytes than its header says.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            size = file.seek(0, 2)
            file.seek(0)
            if packed:
                with gzip.open(file) as stream:
                    return _parse(path, stream, n_dims, size * _DEFLATE_RATIO)
            return _parse(path, file, n_dims, size)
    except EOFError:
        raise SnnbenchError(f"{path}: ends early: the packed file is not whole") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise SnnbenchError(f"{path}: the packed file is damaged: {error}") from None
    except OSError as error:
        raise SnnbenchError(f"{path}: cannot read: {error.strerror or error}") from None


def _parse(path: Path, stream: IO[bytes] | gzip.GzipFile, n_dims: int, at_most: int) -> Idx:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in {_UNSIGNED_BYTES, *_TYPES}:
        raise SnnbenchError(
            f"{path}: is no IDX file: starts with {start.hex(' ') or 'nothing'},"
            f" expected 00 00 08 {n_dims:02x}"
        )
    if start[2] != _UNSIGNED_BYTES:
        raise SnnbenchError(f"{path}: holds {_TYPES[start[2]]}, expected unsigned bytes")
    if start[3] != n_dims:
        raise SnnbenchError(f"{path}: has {start[3]} dimensions, expected {n_dims}")
    sizes = stream.read(4 * n_dims)
    if len(sizes) < 4 * n_dims:
        raise SnnbenchError(f"{path}: ends within its header of {4 + 4 * n_dims} bytes")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    expected = math.prod(shape)
    described = " x ".join(map(str, shape))
    # before anything is allocated: what the file cannot hold is not read
    if expected > at_most:
        raise SnnbenchError(
            f"{path}: its header says {described} = {expected:,} bytes, more than the file can hold"
        )
    body = stream.read(expected + 1)
    if len(body) != expected:
        found = f"only {len(body):,}" if len(body) < expected else "more"
        raise SnnbenchError(
            f"{path}: its header says {described} = {expected:,} bytes, but there are {found}"
        )
    return Idx(np.frombuffer(body, np.uint8).reshape(shape), start + sizes + body)


def read_image(recording: Recording) -> NDArray[np.uint8]:
    """Pixels of one image, row by row, shape (pixel,). The file is read once per process."""
    assert recording.path is not None
    state = recording.path.stat()
    images = _images(recording.path, state.st_mtime_ns, state.st_size)
    return images[recording.position].reshape(-1)


@lru_cache(maxsize=2)
def _images(path: Path, mtime_ns: int, size: int) -> NDArray[np.uint8]:
    """The images of a file in its present state."""
    return read_idx(path, 3).values


def labelled_images(folder: Path, recipe: Recipe) -> Listing:
    """The images of the four files that `source.files` names: training images, training labels, test
    images, test labels.

    Each file may be packed (NAME.gz). Where the recipe knows a file's hash, the unpacked content must
    have it.

    Raises
    ------
    SnnbenchError
        Naming the file: it is not there, not what the recipe expects, damaged, holds a label that is no
        class, or there are more labels than images or fewer.
    """
    if len(recipe.source.files) != 4:
        raise UsageError(
            f"recipe {recipe.name}: source.files needs four names (training images, training labels,"
            f" test images, test labels), found {len(recipe.source.files)}"
        )
    names = iter(recipe.source.files)
    recordings: list[Recording] = []
    for split, images_name, labels_name in zip(("train", "test"), names, names, strict=True):
        images_path, labels_path = _find(folder, images_name), _find(folder, labels_name)
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        _check_hash(recipe, images_name, images_path, images.content)
        _check_hash(recipe, labels_name, labels_path, labels.content)
        if len(labels.values) != len(images.values):
            raise SnnbenchError(
                f"{labels_path}: {len(labels.values)} labels for the {len(images.values)} images of"
                f" {images_path}"
            )
        strange = np.flatnonzero(labels.values >= len(recipe.classes))
        if len(strange):
            raise SnnbenchError(
                f"{labels_path}: label {labels.values[strange[0]]} of image {strange[0]} is out of"
                f" range, recipe {recipe.name} has {len(recipe.classes)} classes"
            )
        # of the images unpacked: packed or not, a data set's sources are the same
        content = hashlib.sha256(images.content).hexdigest()
        recordings += [
            Recording(
                images_path,
                f"{split}/{i:05d}",
                label,
                NO_GROUPS,
                split,
                position=i,
                content_sha256=content,
            )
            for i, label in enumerate(labels.values.tolist())
        ]
    return Listing(recordings, recipe.classes)


def _find(folder: Path, name: str) -> Path:
    """The file `name` in `folder`, or its packed form."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    if not folder.is_dir():
        raise SnnbenchError(f"{folder}: no such source folder")
    raise SnnbenchError(f"{folder}: holds neither {name} nor {name}.gz")


def _check_hash(recipe: Recipe, name: str, path: Path, content: bytes) -> None:
    """Refuse content that is not what the recipe's `[download]` says it is."""
    kind, _, expected = recipe.published_hash(name).partition(":")
    if expected and (found := hashlib.new(kind, content).hexdigest()) != expected:
        raise SnnbenchError(
            f"{path}: is not the published file: its {kind}, unpacked, is {found}, expected"
            f" {expected}; take another copy, or a recipe of your own without this hash"
        )
