"""The published HDF5 layout of SHD and SSC: read it into a SpikeDataset (export.py writes it).

spikes/times    per sample a float16 array, s
spikes/units    per sample an integer array
labels          class per sample
extra/speaker   speaker number per sample (SHD)
extra/keys      names of the classes
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from snnbench.data_prep.recipe import Recipe
from snnbench.data_prep.split import resolved_rule
from snnbench.data_prep.store import Header, Sample, create
from snnbench.errors import SnnbenchError, unknown_name
from snnbench.paths import file_sha256

_BLOCK = 256  # samples in memory at a time
_KINDS = {"spikes/times": "f", "spikes/units": "iu", "labels": "iu", "extra/speaker": "iu"}
"""Arrays that are read, and the kinds of numbers in them."""


def import_published(
    recipe: Recipe,
    source: Path,
    out: Path,
    *,
    test_groups: tuple[str, ...] = (),
    valid_groups: tuple[str, ...] = (),
) -> None:
    """Read published train and test files into one SpikeDataset.

    The test file is the test split; validation speakers are taken out of the training file, as the
    recipe or `valid_groups` says.

    Raises
    ------
    SnnbenchError
        A file is missing or not in the layout, or a validation speaker does not exist.
    """
    if test_groups:
        raise SnnbenchError(
            f"{recipe.name}: the published test file is the test split; drop --test-groups"
        )
    rule = resolved_rule(recipe.split, (), valid_groups)
    paths = [source / name for name in recipe.source.files]
    for path in paths:
        if not path.is_file():
            raise SnnbenchError(
                f"{path}: missing; the source folder needs {', '.join(recipe.source.files)}"
            )
        _check_layout(path)
    trained, tested = ({f"{s:02d}" for s in _column(path, "extra/speaker")} for path in paths)
    speakers = sorted(trained | tested)
    for name in rule.valid_groups:
        if name not in trained:
            raise unknown_name(f"validation group of {paths[0]}", name, trained)
    if trained <= set(rule.valid_groups):
        raise SnnbenchError(
            f"{paths[0]}: all speakers are validation groups, none is left to train"
        )
    processing = recipe.model_copy(update={"split": rule}).processing_json({})
    header = Header.of(recipe, processing, speakers)
    with create(out, header) as writer:
        for path, in_test in zip(paths, (False, True), strict=True):
            for block in _read_samples(path, header):
                for split in ("test",) if in_test else ("train", "valid"):
                    held_out = {header.groups.index(name) for name in rule.valid_groups}
                    samples = [
                        s for s in block if in_test or (s.group in held_out) == (split == "valid")
                    ]
                    if samples:
                        writer.append(split, samples)


def _read_samples(path: Path, header: Header) -> Iterator[list[Sample]]:
    """Samples of one published file, block by block, with spikes sorted by time."""
    digest = file_sha256(path)
    group_of = {int(name): i for i, name in enumerate(header.groups)}
    labels, speakers = _column(path, "labels"), _column(path, "extra/speaker")
    if len(labels) and labels.max() >= len(header.classes):
        raise SnnbenchError(
            f"{path}: label {labels.max()} is out of range, the largest is {len(header.classes) - 1}"
        )
    for start in range(0, len(labels), _BLOCK):
        part = slice(start, start + _BLOCK)
        times, units = _column(path, "spikes/times", part), _column(path, "spikes/units", part)
        block = []
        for i, (t, u) in enumerate(zip(times, units, strict=True), start):
            if len(t) != len(u):
                raise SnnbenchError(f"{path}: sample {i} has {len(t)} times, but {len(u)} units")
            # float32 before anything else: float16 overflows as soon as seconds become microseconds
            t = t.astype(np.float32)
            order = np.argsort(t, kind="stable")
            source_id = f"{path.stem}/{i}"
            # the published file is the source: a sample's hash is made of the file's and its number
            content = hashlib.sha256(f"{digest} {i}".encode()).hexdigest()
            sample = Sample(
                t[order], u[order], int(labels[i]), group_of[int(speakers[i])], source_id, content
            )
            block.append(sample)
        yield block


def _check_layout(path: Path) -> None:
    """Refuse a file whose arrays are not those of the published layout."""
    sizes = {}
    for name, kinds in _KINDS.items():
        with _reading(path, name), h5py.File(path, "r") as file:
            array = file[name]
            per_sample = h5py.check_vlen_dtype(array.dtype)
            kind, sizes[name] = np.dtype(per_sample or array.dtype).kind, array.shape
        if kind not in kinds or bool(per_sample) != name.startswith("spikes/"):
            raise SnnbenchError(f"{path}: {name} is not of the published type")
    n_samples = sizes["labels"][:1]
    if n_samples in ((), (0,)) or any(size != n_samples for size in sizes.values()):
        raise SnnbenchError(f"{path}: not one value per sample in every array, but {sizes}")


def _column(path: Path, name: str, part: slice = slice(None)) -> Any:
    with _reading(path, name), h5py.File(path, "r") as file:
        return file[name][part]


@contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise SnnbenchError(
            f"{path}: {name} cannot be read, not in the published layout: {error}"
        ) from None
