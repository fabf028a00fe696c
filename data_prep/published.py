"""The published HDF5 layout of SHD and SSC: read it into a SpikeDataset (export.py writes it).

spikes/times    per sample a float16 array, s
spikes/units    per sample an integer array
labels          class per sample
extra/speaker   speaker number per sample
extra/keys      names of the classes

One file per split. SHD has a training and a test file; SSC, and what `data export` writes, has a
validation file too.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from snnbench.data_prep.archives import unpack
from snnbench.data_prep.download import hash_like
from snnbench.data_prep.hdf5 import own_array
from snnbench.data_prep.recipe import Recipe, SplitSpec
from snnbench.data_prep.spikes import Sample
from snnbench.data_prep.store import Header, create
from snnbench.errors import SnnbenchError, unknown_name
from snnbench.paths import file_sha256

_log = logging.getLogger(__name__)

_BLOCK = 256  # samples in memory at a time
_KINDS = {"spikes/times": "f", "spikes/units": "iu", "labels": "iu", "extra/speaker": "iu"}
"""Arrays that are read, and the kinds of numbers in them."""
_LONGEST_S = 100.0
"""No spoken word lasts so long: a later spike is one in milliseconds or microseconds."""


@dataclass(frozen=True)
class _Part:
    """One published file."""

    split: str
    """What the file is: train, valid or test. Validation may be taken out of train."""
    path: Path
    labels: NDArray[np.integer]
    speakers: NDArray[np.integer]
    keys: tuple[str, ...]
    """Names of the classes; empty where the file has none."""

    @property
    def names(self) -> list[str]:
        """The speaker of every sample, by name."""
        return [f"{number:02d}" for number in self.speakers]


def import_published(
    recipe: Recipe,
    source: Path,
    out: Path,
    *,
    test_groups: tuple[str, ...] = (),
    valid_groups: tuple[str, ...] = (),
    partial: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Read published files, or ours in the same layout, into one SpikeDataset.

    The files may be packed (.h5.gz, .h5.zip). The test file is the test split. Where there is a
    validation file, it is the validation split; else whole speakers are taken out of the training
    file, as the recipe or `valid_groups` says.

    Parameters
    ----------
    partial : take files that are not the published ones: the checksums and numbers of samples may be
        others, and classes may be missing.
    progress : called with the samples done and all samples, after every block.

    Raises
    ------
    SnnbenchError
        A file is missing, not in the layout or not the published one; a sample is impossible; a
        validation speaker does not exist; a class is missing from a split.
    """
    if test_groups:
        raise SnnbenchError(
            f"{recipe.name}: the published test file is the test split; drop --test-groups"
        )
    with ExitStack() as stack:
        files = _unpacked(_find(recipe, source), out, stack)
        parts = [_open_part(split, path) for split, path in files.items()]
        if not partial:
            _require_counts(recipe, source, parts)
            _require_hashes(recipe, parts)
        classes = _classes(recipe, parts)
        rule = _split_rule(recipe, source, parts, valid_groups)
        splits = [_splits(part, rule.valid_groups) for part in parts]
        if not partial:
            _require_classes(source, parts, splits, classes)
        group_names = _group_names(recipe, parts)
        resolved = recipe.model_copy(update={"split": rule, "classes": classes})
        groups = {name for names in group_names for name in names}
        header = Header.of(resolved, resolved.processing_json({}), groups)
        done, total = 0, sum(len(part.labels) for part in parts)
        with create(out, header) as writer:
            for part, of_sample, names in zip(parts, splits, group_names, strict=True):
                for start, block in _read_samples(part, names, header):
                    for split in np.unique(of_sample):
                        chosen = np.flatnonzero(of_sample[start : start + len(block)] == split)
                        writer.append(str(split), [block[i] for i in chosen])
                    done += len(block)
                    if progress:
                        progress(done, total)


def _find(recipe: Recipe, source: Path) -> dict[str, Path]:
    """Split to file, packed or not."""
    names = recipe.source.files
    if len(names) not in (2, 3):
        raise SnnbenchError(
            f"{recipe.name}: source.files names {len(names)} files; it needs train and test, or train,"
            " valid and test"
        )
    splits = ("train", "test") if len(names) == 2 else ("train", "valid", "test")
    found: dict[str, Path] = {}
    for split, name in zip(splits, names, strict=True):
        path = _there(source, name)
        if path is None:
            raise SnnbenchError(
                f"{source / name}: missing, as are {name}.gz and {name}.zip; the source folder needs"
                f" {', '.join(names)}"
            )
        found[split] = path
    exported = names[0].replace("_train", "_valid")
    if "valid" not in found and exported != names[0] and (path := _there(source, exported)):
        found["valid"] = path
    return {split: found[split] for split in ("train", "valid", "test") if split in found}


def _there(source: Path, name: str) -> Path | None:
    paths = (source / f"{name}{suffix}" for suffix in ("", ".gz", ".zip"))
    return next((path for path in paths if path.is_file()), None)


def _unpacked(files: dict[str, Path], out: Path, stack: ExitStack) -> dict[str, Path]:
    """The same files, those that are packed unpacked beside `out` for as long as `stack` is open."""
    if all(path.suffix == ".h5" for path in files.values()):
        return files
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{out.stem}.", dir=out.parent)
    except OSError as error:
        raise SnnbenchError(f"{out}: cannot write: {error.strerror or error}") from error
    place = Path(stack.enter_context(folder))
    unpacked = {}
    for split, path in files.items():
        unpacked[split] = path
        if path.suffix != ".h5":
            unpacked[split] = place / path.stem
            unpack(path, unpacked[split])
    return unpacked


def _open_part(split: str, path: Path) -> _Part:
    """Everything of a published file but its spikes; refused where it is not in the layout."""
    sizes = {}
    for name, kinds in _KINDS.items():
        with _reading(path, name), h5py.File(path, "r") as file:
            array = own_array(file, name)
            per_sample = h5py.check_vlen_dtype(array.dtype)
            kind, sizes[name] = np.dtype(per_sample or array.dtype).kind, array.shape
        if kind not in kinds or bool(per_sample) != name.startswith("spikes/"):
            raise SnnbenchError(f"{path}: {name} is not of the published type")
    n_samples = sizes["labels"][:1]
    if n_samples in ((), (0,)) or any(size != n_samples for size in sizes.values()):
        raise SnnbenchError(f"{path}: not one value per sample in every array, but {sizes}")
    with _reading(path, "labels and extra"), h5py.File(path, "r") as file:
        keys = own_array(file, "extra/keys")[()] if "extra/keys" in file else []
        names = tuple(key.decode() if isinstance(key, bytes) else str(key) for key in keys)
        part = _Part(split, path, file["labels"][()], file["extra/speaker"][()], names)
    if part.speakers.min() < 0:
        raise SnnbenchError(
            f"{path}: extra/speaker holds the negative number {part.speakers.min()}"
        )
    return part


def _require_counts(recipe: Recipe, source: Path, parts: Sequence[_Part]) -> None:
    """Refuse numbers of samples that are not the published ones."""
    expected, found = recipe.expected_samples, {part.split: len(part.labels) for part in parts}
    if "valid" not in expected:  # written by us, who took it out of the training file
        found["train"] += found.pop("valid", 0)
    if not expected or found == expected:
        return
    texts = [" / ".join(f"{split} {n}" for split, n in n_of.items()) for n_of in (found, expected)]
    release = (
        "; together they are as many: another release, which was split in another way"
        if sum(found.values()) == sum(expected.values())
        else ""
    )
    raise SnnbenchError(
        f"{source}: holds {texts[0]} samples, the published files hold {texts[1]}{release};"
        " --partial takes them as they are"
    )


def _require_hashes(recipe: Recipe, parts: Sequence[_Part]) -> None:
    for part in parts:
        known = recipe.published_hash(part.path.name)
        if known and (found := hash_like(part.path, known)) != known:
            raise SnnbenchError(
                f"{part.path}: its checksum is {found}, that of the published file {known};"
                " --partial takes it as it is"
            )


def _classes(recipe: Recipe, parts: Sequence[_Part]) -> tuple[str, ...]:
    """The recipe's classes, or the files' where it leaves them open; labels have to be among them."""
    classes = recipe.classes or parts[0].keys
    if not classes:
        raise SnnbenchError(f"{parts[0].path}: extra/keys, the names of the classes, is missing")
    for part in parts:
        if part.keys and len(part.keys) != len(classes):
            raise SnnbenchError(
                f"{part.path}: extra/keys names {len(part.keys)} classes, {recipe.name} has"
                f" {len(classes)}"
            )
        if not recipe.classes and part.keys != classes:
            raise SnnbenchError(f"{part.path}: extra/keys are not those of {parts[0].path.name}")
        for label in (part.labels.min(), part.labels.max()):
            if not 0 <= label < len(classes):
                raise SnnbenchError(
                    f"{part.path}: label {label} is out of range, 0 to {len(classes) - 1}"
                )
    return classes


def _group_names(recipe: Recipe, parts: Sequence[_Part]) -> list[list[str]]:
    """The group of every sample, file by file.

    SSC's split holds whole speakers apart (Google's rule hashes the speaker's name). Where its files
    seem to share some nevertheless, each file counts its speakers by itself, and a number is one
    person within one file only.
    """
    trained, validated = (
        {name for part in parts if part.split == split for name in part.names}
        for split in ("train", "valid")
    )
    shared = sorted(trained & validated)
    if not shared:
        return [part.names for part in parts]
    if recipe.split.rule != "published":
        raise SnnbenchError(
            f"speakers {', '.join(shared)} are in both the training and the validation file"
        )
    _log.warning(
        "%s: %d speaker numbers are in both training and validation; taken for numbers that start"
        " anew in every file",
        recipe.name,
        len(shared),
    )
    return [[f"{part.split}-{name}" for name in part.names] for part in parts]


def _split_rule(
    recipe: Recipe, source: Path, parts: Sequence[_Part], valid_groups: tuple[str, ...]
) -> SplitSpec:
    """The recipe's rule with the speakers that do validate; refused where they do not work out."""
    rule = recipe.split
    if valid_groups:
        rule = rule.model_copy(update={"valid_groups": valid_groups})
    validated = {name for part in parts if part.split == "valid" for name in part.names}
    if not validated:
        _require_speakers(parts[0], rule.valid_groups)
        return rule
    if valid_groups:
        raise SnnbenchError(
            f"{source}: the validation file is the validation split; drop --valid-groups, or move"
            " that file away"
        )
    if not rule.valid_groups:
        return rule
    return rule.model_copy(update={"valid_groups": tuple(sorted(validated))})


def _require_speakers(train: _Part, valid_groups: Sequence[str]) -> None:
    trained = set(train.names)
    for name in valid_groups:
        if name not in trained:
            raise unknown_name(f"validation group of {train.path}", name, trained)
    if trained <= set(valid_groups):
        raise SnnbenchError(
            f"{train.path}: all speakers are validation groups, none is left to train"
        )


def _splits(part: _Part, valid_groups: Sequence[str]) -> NDArray[np.str_]:
    """The split of every sample of a file."""
    held_out = np.isin(part.names, list(valid_groups)) & (part.split == "train")
    return np.where(held_out, "valid", part.split)


def _require_classes(
    source: Path,
    parts: Sequence[_Part],
    splits: Sequence[NDArray[np.str_]],
    classes: tuple[str, ...],
) -> None:
    """Refuse a split without a single sample of some class."""
    labels, of_sample = np.concatenate([p.labels for p in parts]), np.concatenate(splits)
    for split in np.unique(of_sample):
        absent = set(range(len(classes))) - set(labels[of_sample == split].tolist())
        if absent:
            raise SnnbenchError(
                f"{source}: no sample of {', '.join(repr(classes[i]) for i in sorted(absent))} in"
                f" the split {split}; choose other --valid-groups, or take it as it is with --partial"
            )


def _read_samples(
    part: _Part, groups: Sequence[str], header: Header
) -> Iterator[tuple[int, list[Sample]]]:
    """Position of the first, and the samples with spikes sorted by time, block by block."""
    digest, path = file_sha256(part.path), part.path
    index_of = {name: i for i, name in enumerate(header.groups)}
    with h5py.File(path, "r") as file:
        for start in range(0, len(part.labels), _BLOCK):
            with _reading(path, "spikes"):
                times = list(file["spikes/times"][start : start + _BLOCK])
                units = list(file["spikes/units"][start : start + _BLOCK])
            block = []
            for i, (t, u) in enumerate(zip(times, units, strict=True), start):
                sample_times, sample_units = _sorted(f"{path}: sample {i}", t, u)
                block.append(
                    Sample(
                        sample_times,
                        sample_units,
                        int(part.labels[i]),
                        index_of[groups[i]],
                        f"{path.stem}/{i}",
                        # the published file is the source: made of its hash and the position
                        hashlib.sha256(f"{digest} {i}".encode()).hexdigest(),
                    )
                )
            yield start, block


def _sorted(
    place: str, times: NDArray[np.floating], units: NDArray[np.integer]
) -> tuple[NDArray[np.float32], Any]:
    """Spikes of a sample in the order of their times (s)."""
    if len(times) != len(units):
        raise SnnbenchError(f"{place} has {len(times)} times, but {len(units)} units")
    if len(times) and (latest := times.max()) > _LONGEST_S:
        what = (
            "beyond the largest float16, 65504: written in another unit than seconds"
            if np.isinf(latest)
            else "not in seconds, it seems"
        )
        raise SnnbenchError(f"{place} has a spike at {latest}: {what}; the layout has seconds")
    # float32 before anything else: float16 overflows as soon as seconds become microseconds
    times = times.astype(np.float32)
    if (times[1:] < times[:-1]).any():
        order = np.argsort(times, kind="stable")
        return times[order], units[order]
    return times, units


@contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise SnnbenchError(
            f"{path}: {name} cannot be read, not in the published layout: {error}"
        ) from None
