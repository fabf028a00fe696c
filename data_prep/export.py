"""A SpikeDataset for other toolkits: the published SHD layout."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from snnbench.data_prep.store import SpikeDataset, whole_hdf5

_BLOCK = 256  # samples in memory at a time


def export_published(dataset: SpikeDataset, folder: Path) -> list[Path]:
    """Write `<name>_<split>.h5` for every split in the published layout; returns the files.

    Times become float16 as in the published files: 0.49 ms apart between 0.5 and 1 s, 0.98 ms above.
    """
    files = []
    for split in dataset.splits:
        path = folder / f"{dataset.header.name}_{split}.h5"
        with whole_hdf5(path) as file:
            _write_split(file, dataset, split)
        files.append(path)
    return files


def _write_split(file: h5py.File, dataset: SpikeDataset, split: str) -> None:
    n = dataset.n_samples(split)
    times = file.create_dataset("spikes/times", (n,), dtype=h5py.vlen_dtype(np.float16))
    units = file.create_dataset("spikes/units", (n,), dtype=h5py.vlen_dtype(np.uint16))
    labels = file.create_dataset("labels", (n,), dtype=np.uint16)
    speaker = file.create_dataset("extra/speaker", (n,), dtype=np.uint16)
    numbers = _speaker_numbers(dataset.header.groups)
    for start in range(0, n, _BLOCK):
        part = dataset.read(split, start, min(start + _BLOCK, n))
        for i in range(len(part)):
            sample_times, sample_units = part.sample(i)
            times[start + i] = sample_times.astype(np.float16)
            units[start + i] = sample_units
        labels[start : start + len(part)] = part.labels
        speaker[start : start + len(part)] = numbers[part.groups]
    keys = [name.encode() for name in dataset.header.classes]
    file.create_dataset("extra/keys", data=np.array(keys, dtype="S"))


def _speaker_numbers(groups: tuple[str, ...]) -> np.ndarray:
    """Group names as numbers where all are numbers, else their positions."""
    if all(name.isdecimal() for name in groups):
        return np.array([int(name) for name in groups])
    return np.arange(len(groups))
