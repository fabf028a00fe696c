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

Every array carries fletcher32 checksums, and `header_sha256` covers the other attributes of the file.
The fingerprint is a sha256 over the arrays in a fixed order and byte order, so it does not depend on
compression or the HDF5 version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from snnbench import __version__
from snnbench.data_prep.hdf5 import own_array, whole_hdf5
from snnbench.data_prep.recipe import Recipe, sha256_text
from snnbench.data_prep.sources import NO_GROUPS
from snnbench.data_prep.spikes import Sample, SpikeSplit, spans
from snnbench.errors import SnnbenchError, unknown_name
from snnbench.record import DataIdentity, labels_sha256

FORMAT = "snnbench-spikes/1"
SPLITS = ("train", "valid", "test")

_SPIKE_ARRAYS = {"times": "<f4", "units": "<u2"}
_SAMPLE_ARRAYS = {"labels": "<u2", "groups": "<u2"}
_TEXT_ARRAYS = ("source_id", "source_sha256")
_NUMBER_ARRAYS = {**_SPIKE_ARRAYS, "offsets": "<i8", **_SAMPLE_ARRAYS}
_HEADER_DIGEST = "header_sha256"
_CHUNK = 1 << 16
_READ_AT_ONCE = 1 << 20  # spikes or other values in memory at a time
_NAMES_AT_ONCE = 1 << 22  # part of the fingerprint's definition, see there


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

    @classmethod
    def of(cls, recipe: Recipe, processing: str, groups: Iterable[str]) -> Self:
        """The header of a file made by `recipe`; `processing` is its JSON, `groups` who is in it."""
        return cls(
            name=recipe.name,
            title=recipe.title,
            synthetic=recipe.synthetic,
            n_units=recipe.n_units,
            duration_s=recipe.duration_s,
            classes=recipe.classes,
            groups=tuple(sorted(groups)),
            recipe=processing,
            recipe_sha256=sha256_text(processing),
            licence=recipe.licence,
            citation=recipe.citation,
            made_by=f"snnbench {__version__}",
        )


class SpikeWriter:
    """Appends samples to an open file, split by split; made by `create`."""

    def __init__(self, path: Path, file: h5py.File, header: Header) -> None:
        self._path = path
        self._file = file
        self._header = header
        self._n_spikes: dict[str, int] = {}
        self._columns: dict[str, dict[str, list[Any]]] = {}
        file.attrs["format"] = FORMAT
        for key, value in header.__dict__.items():
            file.attrs[key] = json.dumps(value) if isinstance(value, tuple) else value

    def append(self, split: str, samples: Sequence[Sample]) -> None:
        """Write the spikes of `samples` behind those already in `split`.

        Raises
        ------
        SnnbenchError
            Naming the sample: a time, unit, label or group does not fit the format.
        """
        if not samples:
            return
        # checked as they came: narrowed to 16 bits, a wrong unit would be a right one
        part = SpikeSplit(
            times=np.concatenate([s.times for s in samples]).astype(np.float32),
            units=np.concatenate([s.units for s in samples]),
            offsets=np.cumsum([0, *(len(s.times) for s in samples)]),
            labels=np.array([s.label for s in samples]),
            groups=np.array([s.group for s in samples]),
            source_ids=[s.source_id for s in samples],
        )
        _check_arrays(self._path, split, part, self._header)
        if split not in self._columns:
            self._start(split)
        group, columns = self._file[split], self._columns[split]
        start = self._n_spikes[split]
        stop = start + len(part.times)
        for name, dtype in _SPIKE_ARRAYS.items():
            group[name].resize((stop,))
            if stop > start:
                group[name][start:stop] = getattr(part, name).astype(dtype)
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
                values = np.array(columns[name], _NUMBER_ARRAYS[name])
                group.create_dataset(name, data=values, **_filters(len(values)))
            for name in _TEXT_ARRAYS:
                text = np.array([v.encode() for v in columns[name]], dtype="S")
                group.create_dataset(name, data=text, **_filters(len(text)))
        self._file.attrs["fingerprint"] = _fingerprint(self._file)
        self._file.attrs[_HEADER_DIGEST] = _header_sha256(dict(self._file.attrs))

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
    with whole_hdf5(path) as file:
        writer = SpikeWriter(Path(path), file, header)
        yield writer
        writer.finish()


class SplitReader:
    """One split of an open file, read in slices: what training code is given of a data set.

    It knows its own arrays and no other split. Nothing stays in memory but labels and groups.
    """

    def __init__(self, path: Path, name: str, arrays: h5py.Group, header: Header) -> None:
        self.name = name
        self.path = path
        self._arrays = arrays
        self._header = header
        self._found: dict[str, h5py.Dataset] = {}

    def __len__(self) -> int:
        return int(self._array("labels").shape[0])

    @property
    def n_spikes(self) -> int:
        """Number of spikes of all samples."""
        return int(self._array("times").shape[0])

    @property
    def spike_counts(self) -> NDArray[np.int64]:
        """Spikes of every sample, shape (sample,)."""
        return np.diff(self._offsets(slice(None)))

    @cached_property
    def labels(self) -> NDArray[np.uint16]:
        """Class of every sample, shape (sample,)."""
        return self._values("labels", slice(None))

    @cached_property
    def groups(self) -> NDArray[np.uint16]:
        """Group of every sample as an index into the file's group names, shape (sample,)."""
        groups = self._values("groups", slice(None))
        _check_range(f"{self.path}: {self.name}/groups", groups, len(self._header.groups))
        return groups

    @property
    def group_names(self) -> list[str]:
        """Names of the groups that occur, sorted."""
        return sorted(self._header.groups[g] for g in np.unique(self.groups))

    @property
    def local_groups(self) -> NDArray[np.uint16]:
        """Group of each sample as an index into `group_names`, shape (sample,)."""
        names = self.group_names
        place = {
            g: names.index(name) for g, name in enumerate(self._header.groups) if name in names
        }
        return np.array([place[int(g)] for g in self.groups], dtype=np.uint16)

    def read(self, start: int = 0, stop: int | None = None) -> SpikeSplit:
        """Samples `start` to `stop`, in one slice per array.

        Raises
        ------
        SnnbenchError
            If an array cannot be read (a flipped bit fails its checksum) or does not fit the format.
        """
        offsets = self._offsets(slice(start, None if stop is None else stop + 1))
        spikes = slice(int(offsets[0]), int(offsets[-1]))
        samples = slice(start, start + len(offsets) - 1)
        part = SpikeSplit(
            times=self._values("times", spikes),
            units=self._values("units", spikes),
            offsets=offsets - offsets[0],
            labels=self._values("labels", samples),
            groups=self._values("groups", samples),
            source_ids=self._texts("source_id", samples),
        )
        _check_arrays(self.path, self.name, part, self._header)
        return part

    def blocks(
        self, max_spikes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[SpikeSplit]:
        """Samples `start` to `stop` in blocks of at most `max_spikes` spikes, or of one larger sample."""
        offsets = self._offsets(slice(start, None if stop is None else stop + 1))
        for first, end in spans(offsets, max_spikes):
            yield self.read(start + first, start + end)

    def sources(self) -> list[tuple[str, str]]:
        """Source id and sha256 of every sample, doubles included."""
        ids, hashes = (self._texts(name, slice(None)) for name in _TEXT_ARRAYS)
        return list(zip(ids, hashes, strict=False))

    def check_lengths(self) -> None:
        """Raise SnnbenchError unless all arrays have as many values as samples or spikes need."""
        n, n_spikes = len(self), self.n_spikes
        wanted = {
            "units": n_spikes,
            "offsets": n + 1,
            "groups": n,
            "source_id": n,
            "source_sha256": n,
        }
        place = f"{self.path}: {self.name}"
        for name, length in wanted.items():
            if (found := len(self._array(name))) != length:
                raise SnnbenchError(
                    f"{place}/{name}: has {found} values, {n} samples and {n_spikes} spikes need"
                    f" {length}"
                )
        first, last = (int(self._values("offsets", slice(i, i + 1))[0]) for i in (0, n))
        if (first, last) != (0, n_spikes):
            raise SnnbenchError(
                f"{place}/offsets: run from {first} to {last}, not from 0 to the {n_spikes} spikes"
            )

    def _offsets(self, part: slice) -> NDArray[np.int64]:
        offsets = self._values("offsets", part)
        fits = len(offsets) and offsets[0] >= 0 and offsets[-1] <= self.n_spikes
        if not fits or (np.diff(offsets) < 0).any():
            raise SnnbenchError(
                f"{self.path}: {self.name}/offsets: do not cut the {self.n_spikes} spikes into"
                " samples; convert the data again"
            )
        return offsets

    def _array(self, name: str) -> h5py.Dataset:
        place = f"{self.path}: {self.name}/{name}"
        with _naming(place):
            if not self._arrays:
                raise ValueError("the file is closed")
            if name not in self._arrays:
                raise SnnbenchError(f"{place} is missing; convert the data again")
            if name in self._found:
                return self._found[name]
            array = own_array(self._arrays, name)
        wanted = _NUMBER_ARRAYS.get(name, "S")
        if array.ndim != 1:
            raise SnnbenchError(f"{place}: is not a flat array")
        if array.dtype != wanted and not (wanted == "S" and array.dtype.kind == "S"):
            raise SnnbenchError(f"{place}: has type {array.dtype}, expected {np.dtype(wanted)}")
        self._found[name] = array
        return array

    def _values(self, name: str, part: slice) -> NDArray[Any]:
        with _naming(f"{self.path}: {self.name}/{name}"):
            return self._array(name)[part]

    def _texts(self, name: str, part: slice) -> list[str]:
        with _naming(f"{self.path}: {self.name}/{name}"):
            return [text.decode() for text in self._values(name, part)]


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
        with _naming(f"{self.path}: list of splits"):
            return [name for name in SPLITS if name in self._file]

    @property
    def fingerprint(self) -> str:
        """The fingerprint written in the file; `check` recomputes it."""
        return str(self._file.attrs["fingerprint"])

    def require(self, fingerprint: str) -> None:
        """Refuse to be taken for the data of a run that was trained on another file.

        Raises
        ------
        SnnbenchError
            The file's fingerprint is not this one.
        """
        if self.fingerprint != fingerprint:
            raise SnnbenchError(
                f"{self.path}: fingerprint {self.fingerprint} is not that of the run's data,"
                f" {fingerprint}; name the file it was trained on with --data"
            )

    def split(self, name: str) -> SplitReader:
        """One split, which is all that its holder can read; usable while the file is open.

        Raises
        ------
        UsageError
            There is no such split in the file.
        """
        if name not in self.splits:
            raise unknown_name("split", name, self.splits)
        with _naming(f"{self.path}: split {name}"):
            arrays = self._file[name]
            if not isinstance(arrays, h5py.Group) or arrays.file.filename != self._file.filename:
                raise ValueError("it is not a group of arrays in this file")
        return SplitReader(self.path, name, arrays, self.header)

    def n_samples(self, split: str) -> int:
        """Number of samples in a split."""
        return len(self.split(split))

    def n_spikes(self, split: str) -> int:
        """Number of spikes in a split."""
        return self.split(split).n_spikes

    def read(self, split: str, start: int = 0, stop: int | None = None) -> SpikeSplit:
        """Samples `start` to `stop` of a split, as `SplitReader.read`."""
        return self.split(split).read(start, stop)

    def source_hashes(self, split: str) -> dict[str, str]:
        """Source id to sha256 of the source file, in file order."""
        return dict(self.split(split).sources())

    @cached_property
    def identity(self) -> DataIdentity:
        """What a record keeps of the data it ran on."""
        sources = {split: self.source_hashes(split) for split in self.splits}
        return DataIdentity(
            name=self.header.name,
            synthetic=self.header.synthetic,
            recipe_sha256=self.header.recipe_sha256,
            source_sha256=_lines_sha256(
                f"{source_id} {digest}"
                for of_split in sources.values()
                for source_id, digest in of_split.items()
            ),
            split_sha256=_lines_sha256(
                f"{split} {source_id}"
                for split, of_split in sources.items()
                for source_id in of_split
            ),
            labels_sha256=self._labels_sha256(),
            fingerprint=self.fingerprint,
            n_samples={split: self.n_samples(split) for split in self.splits},
            groups={split: self.group_names(split) for split in self.splits},
        )

    def group_names(self, split: str) -> list[str]:
        """Names of the groups (speakers) that occur in a split, sorted."""
        return self.split(split).group_names

    def check(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Read everything, block by block, and prove that the file is what it says.

        Parameters
        ----------
        progress : called with the number of spikes done and to do; every spike is read twice.

        Raises
        ------
        SnnbenchError
            Naming the split and array: a checksum or the fingerprint does not match, an array does
            not fit the format, a recording (by name or content) stands in two splits or twice in
            one, or a speaker is in both training and validation data.
        """
        recipe = hashlib.sha256(self.header.recipe.encode()).hexdigest()
        if recipe != self.header.recipe_sha256:
            raise SnnbenchError(
                f"{self.path}: recipe_sha256 is {self.header.recipe_sha256}, but that of the recipe"
                f" is {recipe}; convert the data again"
            )
        done, total = 0, 2 * sum(self.n_spikes(split) for split in self.splits)
        for split in map(self.split, self.splits):
            split.check_lengths()
            for block in split.blocks(_READ_AT_ONCE):
                done += block.n_spikes
                progress(done, total)
        with _naming(f"{self.path}: content"):
            found = _fingerprint(self._file, lambda spikes: progress(done + spikes, total))
        if found != self.fingerprint:
            raise SnnbenchError(
                f"{self.path}: fingerprint {found} does not match the one in the file,"
                f" {self.fingerprint}; convert the data again"
            )
        self._check_disjoint()

    def _check_disjoint(self) -> None:
        seen: dict[str, str] = {}
        for split in self.splits:
            for source_id, digest in self.split(split).sources():
                for key in filter(None, (source_id, digest)):
                    if key in seen:
                        raise SnnbenchError(
                            f"{self.path}: recording {source_id} of split {split} is a duplicate of"
                            f" {seen[key]}"
                        )
                    seen[key] = f"{source_id} of split {split}"
        if {"train", "valid"} <= set(self.splits):
            shared = set(self.group_names("train")) & set(self.group_names("valid"))
            if shared - {NO_GROUPS}:
                raise SnnbenchError(
                    f"{self.path}: groups in both train and valid: {', '.join(sorted(shared))}"
                )

    def _labels_sha256(self) -> str:
        if "test" not in self.splits:
            return ""
        test = self.split("test")
        return labels_sha256(test.labels, test.local_groups, test.group_names)


def _lines_sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Turn what h5py raises on damage, which may be nearly anything, into an error with the place."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise SnnbenchError(f"{place} cannot be read: {error}") from None


def _read_header(path: Path, file: h5py.File) -> Header:
    with _naming(f"{path}: header"):
        attributes = dict(file.attrs)
    # text, since an attribute may be an array, too
    if str(attributes.get("format")) != FORMAT:
        raise SnnbenchError(
            f"{path}: format is {attributes.get('format')!r}, expected {FORMAT!r};"
            " published SHD files are read with `snnbench data convert shd --source FOLDER`"
        )
    try:
        header = Header(
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
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise SnnbenchError(f"{path}: header attribute missing or unreadable: {error}") from None
    if "fingerprint" not in attributes:
        raise SnnbenchError(f"{path}: holds no fingerprint; convert the data again")
    # absent from files of snnbench 0.1
    found = _header_sha256(attributes)
    if (written := str(attributes.get(_HEADER_DIGEST, found))) != found:
        raise SnnbenchError(
            f"{path}: the header's attributes were changed or damaged: header_sha256 is {written},"
            f" that of the other attributes {found}; convert the data again"
        )
    return header


def _check_arrays(path: Path, split: str, part: SpikeSplit, header: Header) -> None:
    place = f"{path}: {split}"
    sizes = {
        "units": len(part.times),
        **dict.fromkeys(("labels", "groups", "source_ids"), len(part)),
    }
    for name, size in sizes.items():
        if len(getattr(part, name)) != size:
            raise SnnbenchError(
                f"{place}/{name}: {len(getattr(part, name))} values, expected {size}"
            )
    if len(part.offsets) != len(part) + 1:
        raise SnnbenchError(f"{place}/offsets: {len(part.offsets)} values for {len(part)} samples")
    _check_range(f"{place}/labels", part.labels, len(header.classes), part.source_ids)
    _check_range(f"{place}/groups", part.groups, len(header.groups), part.source_ids)

    def sample_of(spikes: NDArray[Any]) -> str:
        return part.source_ids[int(np.searchsorted(part.offsets, spikes[0], side="right")) - 1]

    outside = np.flatnonzero((part.units < 0) | (part.units >= header.n_units))
    if len(outside):
        raise SnnbenchError(
            f"{place}/units: unit {part.units[outside[0]]} in sample {sample_of(outside)} is out of"
            f" range, n_units = {header.n_units}"
        )
    bad = np.flatnonzero(~(np.isfinite(part.times) & (part.times >= 0)))
    if len(bad):
        raise SnnbenchError(
            f"{place}/times: {part.times[bad[0]]} s in sample {sample_of(bad)}; a time is finite and"
            " not negative"
        )
    unsorted = np.flatnonzero(np.diff(part.times) < 0) + 1
    unsorted = unsorted[~np.isin(unsorted, part.offsets)]
    if len(unsorted):
        raise SnnbenchError(f"{place}/times: not sorted in sample {sample_of(unsorted)}")


def _check_range(
    place: str, values: NDArray[Any], limit: int, source_ids: Sequence[str] | None = None
) -> None:
    outside = np.flatnonzero((values < 0) | (values >= limit))
    if len(outside):
        where = f" in sample {source_ids[outside[0]]}" if source_ids else ""
        raise SnnbenchError(
            f"{place}: value {values[outside[0]]}{where} is out of range, the largest is {limit - 1}"
        )


def _header_sha256(attributes: Mapping[str, Any]) -> str:
    """Sha256 of all root attributes but itself: HDF5 has no checksum on their texts."""
    words = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in attributes.items()
        if key != _HEADER_DIGEST
    }
    return sha256_text(json.dumps(words, sort_keys=True, default=repr))


def _fingerprint(file: h5py.File, progress: Callable[[int], None] = lambda spikes: None) -> str:
    digest = hashlib.sha256()
    hashed = 0.0
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
            at_once = _NAMES_AT_ONCE if name == "source_id" else _READ_AT_ONCE
            for start in range(0, len(array), at_once):
                block = array[start : start + at_once]
                if name == "source_id":
                    # no end of line between blocks, once and for all
                    digest.update(b"\n".join(block.tolist()))
                else:
                    digest.update(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).data)
                if name in _SPIKE_ARRAYS:
                    hashed += len(block) / len(_SPIKE_ARRAYS)
                    progress(int(hashed))
    return digest.hexdigest()
