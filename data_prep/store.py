"""SpikeDataset: one HDF5 file for any spike data set (format snnbench-spikes/1).

A group per split (train, valid, test) holds flat arrays; sample i owns spikes offsets[i] to
offsets[i+1]:

    times         float32  s, sorted within a sample
    units         uint16   0 .. n_units-1
    offsets       int64    n_samples + 1
    labels        uint16   index into the classes
    groups        uint16   index into the group names (speakers)
    source_id     text     name of the recording
    source_sha256 text     hash of the recording's file (empty where there is none)

Every array carries fletcher32 checksums. The fingerprint is a sha256 over the arrays in a fixed order
and byte order, so it does not depend on compression or the HDF5 version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from snnbench.errors import SnnbenchError, unknown_name
from snnbench.paths import whole_file
from snnbench.record import DataIdentity, labels_sha256

FORMAT = "snnbench-spikes/1"
SPLITS = ("train", "valid", "test")

_SPIKE_ARRAYS = {"times": "<f4", "units": "<u2"}
_SAMPLE_ARRAYS = {"labels": "<u2", "groups": "<u2"}
_TEXT_ARRAYS = ("source_id", "source_sha256")
_CHUNK = 1 << 16
_BLOCK = 1 << 22  # spikes held in memory at a time while hashing and checking


@dataclass(frozen=True)
class SpikeSplit:
    """Samples of one split in memory.

    `times` (spike,) float32 s and `units` (spike,) uint16 are flat; `offsets` (sample+1,) int64 cuts
    them into samples; `labels` and `groups` (sample,) are uint16.
    """

    times: NDArray[np.float32]
    units: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    labels: NDArray[np.uint16]
    groups: NDArray[np.uint16]
    source_ids: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
        """Times (s) and units of one sample."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.times[part], self.units[part]


class Sample(NamedTuple):
    """One recording on its way into a file."""

    times: NDArray[np.float32]
    units: NDArray[np.uint16]
    label: int
    group: int
    source_id: str
    source_sha256: str


@dataclass(frozen=True)
class Header:
    """What a file says about itself, apart from its arrays."""

    name: str
    title: str
    synthetic: bool
    n_units: int
    duration_s: float
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    recipe: str
    """JSON of the recipe with every parameter that made the spikes."""
    recipe_sha256: str
    licence: str
    citation: str
    made_by: str


class SpikeWriter:
    """Appends samples to an open file, split by split; made by `create`."""

    def __init__(self, file: h5py.File, header: Header) -> None:
        self._file = file
        self._n_spikes: dict[str, int] = {}
        self._columns: dict[str, dict[str, list[Any]]] = {}
        file.attrs["format"] = FORMAT
        for key, value in header.__dict__.items():
            file.attrs[key] = json.dumps(value) if isinstance(value, tuple) else value

    def append(self, split: str, samples: Sequence[Sample]) -> None:
        """Write the spikes of `samples` behind those already in `split`."""
        if split not in self._columns:
            self._start(split)
        group, columns = self._file[split], self._columns[split]
        start = self._n_spikes[split]
        stop = start + sum(len(s.times) for s in samples)
        for name, dtype in _SPIKE_ARRAYS.items():
            parts = [np.asarray(getattr(s, name), dtype=dtype) for s in samples]
            group[name].resize((stop,))
            if stop > start:
                group[name][start:stop] = np.concatenate(parts)
        self._n_spikes[split] = stop
        for sample in samples:
            columns["offsets"].append(columns["offsets"][-1] + len(sample.times))
            columns["labels"].append(sample.label)
            columns["groups"].append(sample.group)
            columns["source_id"].append(sample.source_id)
            columns["source_sha256"].append(sample.source_sha256)

    def finish(self) -> None:
        """Write the per-sample columns and the fingerprint."""
        for split, columns in self._columns.items():
            group = self._file[split]
            for name in ("offsets", *_SAMPLE_ARRAYS):
                dtype = "<i8" if name == "offsets" else _SAMPLE_ARRAYS[name]
                group.create_dataset(
                    name, data=np.array(columns[name], dtype), **_filters(len(columns[name]))
                )
            for name in _TEXT_ARRAYS:
                text = np.array([v.encode() for v in columns[name]], dtype="S")
                group.create_dataset(name, data=text, **_filters(len(text)))
        self._file.attrs["fingerprint"] = _fingerprint(self._file)

    def _start(self, split: str) -> None:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {SPLITS}")
        group = self._file.create_group(split)
        for name, dtype in _SPIKE_ARRAYS.items():
            group.create_dataset(
                name, shape=(0,), maxshape=(None,), dtype=dtype, **_filters(_CHUNK)
            )
        self._n_spikes[split] = 0
        self._columns[split] = {"offsets": [0], **{k: [] for k in (*_SAMPLE_ARRAYS, *_TEXT_ARRAYS)}}


def _filters(length: int) -> dict[str, Any]:
    return {
        "chunks": (min(_CHUNK, length),),
        "compression": "gzip",
        "compression_opts": 1,
        "shuffle": True,
        "fletcher32": True,
    }


@contextmanager
def create(path: Path | str, header: Header) -> Iterator[SpikeWriter]:
    """Write a new SpikeDataset; the file appears whole when the block ends without an error."""
    with whole_file(path) as temporary:
        try:
            with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
                writer = SpikeWriter(file, header)
                yield writer
                writer.finish()
        except (RuntimeError, ValueError) as error:
            # h5py reports a full disk in these two ways when it flushes a chunk or closes
            if "write" in str(error) or "flush" in str(error):
                raise SnnbenchError(f"{path}: cannot write: {error}") from error
            raise


class SpikeDataset:
    """An open SpikeDataset file. Use `with SpikeDataset.open(path) as dataset`."""

    def __init__(self, path: Path, file: h5py.File, header: Header) -> None:
        self.path = path
        self.header = header
        self._file = file

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open for reading.

        Raises
        ------
        SnnbenchError
            If there is no such file, or it is not a whole snnbench-spikes/1 file.
        """
        path = Path(path)
        if not path.is_file():
            raise SnnbenchError(f"{path}: no such data file")
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise SnnbenchError(f"{path}: not a readable HDF5 file (truncated?): {error}") from None
        try:
            return cls(path, file, _read_header(path, file))
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def splits(self) -> list[str]:
        """Names of the splits in the file, in the order train, valid, test."""
        return [name for name in SPLITS if name in self._file]

    @property
    def fingerprint(self) -> str:
        """The fingerprint written in the file; `check` recomputes it."""
        return str(self._file.attrs["fingerprint"])

    def n_samples(self, split: str) -> int:
        """Number of samples in a split."""
        return int(self._array(split, "labels").shape[0])

    def n_spikes(self, split: str) -> int:
        """Number of spikes in a split."""
        return int(self._array(split, "times").shape[0])

    def read(self, split: str, start: int = 0, stop: int | None = None) -> SpikeSplit:
        """Samples `start` to `stop` of a split, in one slice per array.

        Raises
        ------
        SnnbenchError
            If an array cannot be read (a flipped bit fails its checksum) or does not fit the format.
        """
        offsets = self._values(split, "offsets", slice(start, None if stop is None else stop + 1))
        spikes = slice(int(offsets[0]), int(offsets[-1]))
        samples = slice(start, start + len(offsets) - 1)
        part = SpikeSplit(
            times=self._values(split, "times", spikes),
            units=self._values(split, "units", spikes),
            offsets=offsets - offsets[0],
            labels=self._values(split, "labels", samples),
            groups=self._values(split, "groups", samples),
            source_ids=[v.decode() for v in self._values(split, "source_id", samples)],
        )
        _check_arrays(self.path, split, part, self.header)
        return part

    def source_hashes(self, split: str) -> dict[str, str]:
        """Source id to sha256 of the source file, in file order."""
        ids = self._values(split, "source_id", slice(None))
        hashes = self._values(split, "source_sha256", slice(None))
        return {i.decode(): h.decode() for i, h in zip(ids, hashes, strict=True)}

    @cached_property
    def identity(self) -> DataIdentity:
        """What a record keeps of the data it ran on."""
        return DataIdentity(
            name=self.header.name,
            synthetic=self.header.synthetic,
            recipe_sha256=self.header.recipe_sha256,
            source_sha256=self._lines_digest(
                f"{source_id} {digest}"
                for split in self.splits
                for source_id, digest in self.source_hashes(split).items()
            ),
            split_sha256=self._lines_digest(
                f"{split} {source_id}"
                for split in self.splits
                for source_id in self.source_hashes(split)
            ),
            labels_sha256=self._labels_sha256(),
            fingerprint=self.fingerprint,
            n_samples={split: self.n_samples(split) for split in self.splits},
            groups={split: self.group_names(split) for split in self.splits},
        )

    def group_names(self, split: str) -> list[str]:
        """Names of the groups (speakers) that occur in a split, sorted."""
        present = np.unique(self._values(split, "groups", slice(None)))
        return sorted(self.header.groups[g] for g in present)

    def local_groups(self, split: str) -> NDArray[np.uint16]:
        """Group of each sample as an index into `group_names(split)`."""
        names = self.group_names(split)
        index = {g: names.index(name) for g, name in enumerate(self.header.groups) if name in names}
        groups = self._values(split, "groups", slice(None))
        return np.array([index[int(g)] for g in groups], dtype=np.uint16)

    def check(self) -> None:
        """Read everything and prove that the file is what it says.

        Raises
        ------
        SnnbenchError
            Naming the split and array: a checksum or the fingerprint does not match, an array does
            not fit the format, a recording (by name or content) stands in two splits or twice in
            one, or a speaker is in both training and validation data.
        """
        for split in self.splits:
            for start in range(0, self.n_samples(split), 256):
                self.read(split, start, min(start + 256, self.n_samples(split)))
        found = _fingerprint(self._file)
        if found != self.fingerprint:
            raise SnnbenchError(
                f"{self.path}: fingerprint {found} does not match the one in the file,"
                f" {self.fingerprint}; convert the data again"
            )
        self._check_disjoint()

    def _check_disjoint(self) -> None:
        seen: dict[str, str] = {}
        for split in self.splits:
            for source_id, digest in self.source_hashes(split).items():
                for key in filter(None, (source_id, digest)):
                    if key in seen:
                        raise SnnbenchError(
                            f"{self.path}: recording {source_id} of split {split} is a duplicate of"
                            f" {seen[key]}"
                        )
                    seen[key] = f"{source_id} of split {split}"
        if {"train", "valid"} <= set(self.splits):
            shared = set(self.group_names("train")) & set(self.group_names("valid"))
            if shared:
                raise SnnbenchError(
                    f"{self.path}: groups in both train and valid: {', '.join(sorted(shared))}"
                )

    def _labels_sha256(self) -> str:
        if "test" not in self.splits:
            return ""
        labels = self._values("test", "labels", slice(None))
        return labels_sha256(labels, self.local_groups("test"), self.group_names("test"))

    @staticmethod
    def _lines_digest(lines: Iterator[str]) -> str:
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    def _array(self, split: str, name: str) -> h5py.Dataset:
        if split not in self._file:
            raise unknown_name("split", split, self.splits)
        if name not in self._file[split]:
            raise SnnbenchError(f"{self.path}: {split}/{name} is missing; convert the data again")
        return self._file[split][name]

    def _values(self, split: str, name: str, part: slice) -> NDArray[Any]:
        try:
            return self._array(split, name)[part]
        except OSError as error:
            raise SnnbenchError(f"{self.path}: {split}/{name} cannot be read: {error}") from None


def _read_header(path: Path, file: h5py.File) -> Header:
    attributes = dict(file.attrs)
    if attributes.get("format") != FORMAT:
        raise SnnbenchError(
            f"{path}: format is {attributes.get('format')!r}, expected {FORMAT!r};"
            " published SHD files are read with `snnbench data convert shd --source FOLDER`"
        )
    try:
        return Header(
            name=str(attributes["name"]),
            title=str(attributes["title"]),
            synthetic=bool(attributes["synthetic"]),
            n_units=int(attributes["n_units"]),
            duration_s=float(attributes["duration_s"]),
            classes=tuple(json.loads(attributes["classes"])),
            groups=tuple(json.loads(attributes["groups"])),
            recipe=str(attributes["recipe"]),
            recipe_sha256=str(attributes["recipe_sha256"]),
            licence=str(attributes["licence"]),
            citation=str(attributes["citation"]),
            made_by=str(attributes["made_by"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise SnnbenchError(f"{path}: header attribute missing or unreadable: {error}") from None


def _check_arrays(path: Path, split: str, part: SpikeSplit, header: Header) -> None:
    def refuse(array: str, problem: str) -> SnnbenchError:
        return SnnbenchError(f"{path}: {split}/{array}: {problem}")

    if len(part.offsets) and (np.diff(part.offsets) < 0).any():
        raise refuse("offsets", "decrease; the samples cannot be told apart")
    if not (len(part.times) == len(part.units) == part.offsets[-1]):
        raise refuse("offsets", f"end at {part.offsets[-1]}, but there are {len(part.times)} times")
    for name, limit in (("labels", len(header.classes)), ("groups", len(header.groups))):
        values = getattr(part, name)
        if len(values) != len(part.offsets) - 1:
            raise refuse(name, f"{len(values)} values for {len(part.offsets) - 1} samples")
        if len(values) and values.max() >= limit:
            raise refuse(name, f"value {values.max()} is out of range, the largest is {limit - 1}")
    if not len(part.times):
        return
    if part.units.max() >= header.n_units:
        raise refuse(
            "units", f"unit {part.units.max()} is out of range, n_units = {header.n_units}"
        )
    if not np.isfinite(part.times).all() or part.times.min() < 0:
        raise refuse("times", "a time is negative or not a number")
    unsorted = np.flatnonzero(np.diff(part.times) < 0) + 1
    unsorted = unsorted[~np.isin(unsorted, part.offsets)]
    if len(unsorted):
        sample = int(np.searchsorted(part.offsets, unsorted[0], side="right")) - 1
        raise refuse("times", f"not sorted in sample {part.source_ids[sample]}")


def _fingerprint(file: h5py.File) -> str:
    digest = hashlib.sha256()
    fixed = {key: file.attrs[key] for key in ("classes", "groups")}
    fixed |= {
        "n_units": int(file.attrs["n_units"]),
        "duration_s": float(file.attrs["duration_s"]),
    }
    digest.update(json.dumps([FORMAT, fixed], sort_keys=True).encode())
    for split in (name for name in SPLITS if name in file):
        for name in ("times", "units", "offsets", "labels", "groups", "source_id"):
            array = file[split][name]
            digest.update(f"{split}/{name} {len(array)}\n".encode())
            for start in range(0, len(array), _BLOCK):
                block = array[start : start + _BLOCK]
                if name == "source_id":
                    digest.update(b"\n".join(block.tolist()))
                else:
                    digest.update(
                        np.ascontiguousarray(block, block.dtype.newbyteorder("<")).tobytes()
                    )
    return digest.hexdigest()
