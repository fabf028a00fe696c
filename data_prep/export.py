"""A SpikeDataset for other toolkits: the published SHD layout, or flat NumPy arrays.

One file per split, so that code that trains need not open the test split.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from snnbench.data_prep.hdf5 import whole_hdf5
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError, UsageError
from snnbench.paths import whole_file, write_bytes

_BLOCK = 1 << 21  # spikes in memory at a time
_SAME_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can tell: equal data give equal files


def export_published(
    dataset: SpikeDataset, folder: Path, *, name: str | None = None, force: bool = False
) -> list[Path]:
    """Write `<name>_<split>.h5` for every split in the published layout of SHD and SSC.

        spikes/times    per sample a float16 array, s
        spikes/units    per sample a uint16 array
        labels          class per sample
        extra/speaker   speaker number per sample
        extra/keys      names of the classes

    Times become float16 as in the published files: 0.49 ms apart between 0.5 and 1 s, 0.98 ms above.
    The published `extra/meta_info` (gender, age and height of the speakers) is not written: a data set
    here does not know it, and neither tonic nor the SpyTorch tutorial reads it.

    tonic's SHD(save_to=F) opens F/SHD/shd_train.h5 and shd_test.h5, its SSC F/SSC/ssc_*.h5, and takes
    them for downloaded only where an archive called shd_train.h5.zip lies beside. So files named shd or
    ssc get such an archive, a valid and empty one; one that is there is left as it is.

    Parameters
    ----------
    folder
        Made where it is missing.
    name
        Beginning of the files' names; the data set's own by default.
    force
        Replace files that are there.

    Returns
    -------
    list of Path
        The HDF5 files, in the order of the splits.

    Raises
    ------
    SnnbenchError
        One of the files is there already, or cannot be written.
    """
    files = _targets(dataset, folder, name, ".h5", force)
    for split, path in files.items():
        with whole_hdf5(path) as file:
            file.attrs.update(_facts(dataset, split))
            _write_published(file, dataset, split)
        archive = path.with_name(path.name + ".zip")
        if path.name.startswith(("shd_", "ssc_")) and not archive.exists():
            write_bytes(archive, _empty_archive(f"{path.name} lies beside, unpacked"))
    return list(files.values())


def export_npz(
    dataset: SpikeDataset, folder: Path, *, name: str | None = None, force: bool = False
) -> list[Path]:
    """Write `<name>_<split>.npz` for every split: flat arrays, for `np.load(path)` as it is.

        times        (spike,)     float32  s, ascending within a sample
        units        (spike,)     uint16   0 .. n_units-1
        offsets      (sample+1,)  int64    sample i owns spikes offsets[i] to offsets[i+1]
        labels       (sample,)    uint16   index into classes
        groups       (sample,)    uint16   index into group_names
        source_id    (sample,)    text
        classes, group_names      text
        n_units, duration_s, and name, title, synthetic, split, fingerprint, licence, citation, recipe,
        made_by                   scalars

    Uncompressed, as np.savez writes, but never with more than a block of spikes in memory. Equal data
    give equal bytes. For parameters and errors see `export_published`.
    """
    files = _targets(dataset, folder, name, ".npz", force)
    for split, path in files.items():
        with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            _write_npz(archive, dataset, split)
    return list(files.values())


LAYOUTS: dict[str, Callable[..., list[Path]]] = {"shd": export_published, "npz": export_npz}
"""What there is to choose from, by the name that the command line uses."""


def _targets(
    dataset: SpikeDataset, folder: Path, name: str | None, suffix: str, force: bool
) -> dict[str, Path]:
    """File of every split, once it is sure that none is there that may not be replaced."""
    name = dataset.header.name if name is None else name
    if not name or Path(name).name != name:
        raise UsageError(f"{name!r} cannot begin the name of a file in {folder}")
    files = {split: folder / f"{name}_{split}{suffix}" for split in dataset.splits}
    for path in files.values():
        if path.exists() and not force:
            raise SnnbenchError(f"{path}: exists already; --force replaces it")
    return files


def _facts(dataset: SpikeDataset, split: str) -> dict[str, Any]:
    """What a file should say about where it came from."""
    header = dataset.header
    return {
        "name": header.name,
        "title": header.title,
        "synthetic": header.synthetic,
        "split": split,
        "n_units": header.n_units,
        "duration_s": header.duration_s,
        "fingerprint": dataset.fingerprint,
        "licence": header.licence,
        "citation": header.citation,
        "recipe": header.recipe,
        "made_by": header.made_by,
    }


def _write_published(file: h5py.File, dataset: SpikeDataset, split: str) -> None:
    reader = dataset.split(split)
    n = len(reader)
    times = file.create_dataset("spikes/times", (n,), dtype=h5py.vlen_dtype(np.float16))
    units = file.create_dataset("spikes/units", (n,), dtype=h5py.vlen_dtype(np.uint16))
    done = 0
    for part in reader.blocks(_BLOCK):
        # one by one: h5py refuses a slice of samples that are all equally long
        for i, index in enumerate(range(done, done + len(part))):
            sample_times, sample_units = part.sample(i)
            times[index] = sample_times.astype(np.float16)
            units[index] = sample_units
        done += len(part)
    file["labels"] = reader.labels
    file["extra/speaker"] = _speaker_numbers(dataset.header.groups)[reader.groups]
    file["extra/keys"] = np.array([name.encode() for name in dataset.header.classes])


def _speaker_numbers(groups: tuple[str, ...]) -> np.ndarray:
    """Group names as numbers where all are numbers, else their positions."""
    if all(name.isdecimal() for name in groups):
        return np.array([int(name) for name in groups], dtype=np.uint16)
    return np.arange(len(groups), dtype=np.uint16)


def _write_npz(archive: zipfile.ZipFile, dataset: SpikeDataset, split: str) -> None:
    reader = dataset.split(split)
    for name, dtype in (("times", "<f4"), ("units", "<u2")):
        blocks = (getattr(part, name) for part in reader.blocks(_BLOCK))
        _write_array(archive, name, dtype, (reader.n_spikes,), blocks)
    counts, source_ids = [0], []
    for part in reader.blocks(_BLOCK):
        counts.extend(np.diff(part.offsets).tolist())
        source_ids.extend(part.source_ids)
    columns: dict[str, np.ndarray] = {
        "offsets": np.cumsum(counts, dtype=np.int64),
        "labels": reader.labels,
        "groups": reader.groups,
        "source_id": np.array(source_ids),
        "classes": np.array(dataset.header.classes),
        "group_names": np.array(dataset.header.groups),
        **{key: np.array(value) for key, value in _facts(dataset, split).items()},
    }
    for name, column in columns.items():
        _write_array(archive, name, column.dtype.newbyteorder("<").str, column.shape, [column])


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    blocks: Iterable[np.ndarray],
) -> None:
    """One array of an .npz file, block by block."""
    member = zipfile.ZipInfo(f"{name}.npy", _SAME_DATE)
    # the size is not known to zipfile beforehand, and may be beyond 4 GiB
    with archive.open(member, "w", force_zip64=True) as file:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).tobytes())


def _empty_archive(comment: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = comment.encode()
    return buffer.getvalue()
