"""One flipped bit in a file: found where a hash protects it, and never a silently wrong value.

A bit may lie where no value does (padding, free space of HDF5, white space of JSON). Then the file has to
give exactly the values that it held before.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from snnbench.checkpoint import build_for, load_tensors, save_network, save_tensors
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.entries import shipped_tasks
from snnbench.leaderboards.verify import verify_entry
from snnbench.record import read_predictions, read_record
from tests.factories import make_run_folder
from tests.tiny_data import write_dataset
from tests.toy_spikes import toy_spec

QUICK, LONG = 100, 2000
SPEC = toy_spec("rec-lif", model__hidden=[7, 5])
FLIPS = pytest.mark.parametrize("n", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)])


class Flips(NamedTuple):
    """What became of flipped bits."""

    found: int
    harmless: int
    """The file gave the same values."""


def flip_bits(path: Path, read: Callable[[], Any], n: int) -> Flips:
    """Flip `n` bits one after the other; every one is found or harmless, else the test fails."""
    whole, before = path.read_bytes(), read()
    n, found = min(n, 8 * len(whole)), 0
    for position in random.Random(0).sample(range(8 * len(whole)), n):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        told = ""
        try:
            after = read()
        except SnnbenchError as error:
            told = str(error)
        if told:
            assert path.name in told
            found += 1
        else:
            assert after == before, f"bit {position} changed what was read, and nothing told so"
    path.write_bytes(whole)
    assert read() == before
    return Flips(found, n - found)


def tensors_of(path: Path) -> Any:
    file = load_tensors(path)
    values = {k: (t.dtype, t.shape, t.numpy().tobytes()) for k, t in file.tensors.items()}
    return values, file.spec, file.extra


@FLIPS
def test_data_file(tmp_path: Path, n: int):
    path = write_dataset(tmp_path / "data.h5")

    def read() -> Any:
        with SpikeDataset.open(path) as dataset:
            dataset.check()
            arrays = [vars(dataset.read(split)) for split in dataset.splits]
            values = [
                {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in a.items()}
                for a in arrays
            ]
            return dataset.header, dataset.identity, values

    assert flip_bits(path, read, n).found > n / 2


@FLIPS
def test_training_state(tmp_path: Path, n: int):
    """resume.safetensors, which no record has the hash of."""
    path = tmp_path / "resume.safetensors"
    tensors = {**build_for(SPEC, torch.Generator()).state_dict(), "step": torch.tensor(3.0)}
    save_tensors(path, tensors, SPEC, {"engine": "cpp", "history": [{"loss": 0.25}]})
    assert flip_bits(path, lambda: tensors_of(path), n).harmless == 0


@FLIPS
def test_weights(tmp_path: Path, n: int):
    path = tmp_path / "model.safetensors"
    save_network(path, build_for(SPEC, torch.Generator()), SPEC)
    assert flip_bits(path, lambda: tensors_of(path), n).harmless == 0


@FLIPS
def test_record(tmp_path: Path, n: int):
    path = make_run_folder(tmp_path) / "record.json"
    assert flip_bits(path, lambda: read_record(path), n).found > 0.8 * n


@FLIPS
def test_predictions(tmp_path: Path, n: int):
    folder = make_run_folder(tmp_path)
    path, digest = (
        folder / "predictions.npz",
        read_record(folder / "record.json").predictions_sha256,
    )

    def read() -> list[bytes]:
        return [array.tobytes() for array in read_predictions(path, digest)]

    assert flip_bits(path, read, n).harmless == 0


@FLIPS
@pytest.mark.parametrize(
    "file", ["runs/seed-0.json", "predictions/seed-0.npz", "entry.toml", "MANIFEST.sha256"]
)
def test_entry_of_a_board(tmp_path: Path, file: str, n: int):
    """Every bit of an entry is covered by its manifest, and every bit of that by its one right text."""
    tasks, runs = shipped_tasks(), [make_run_folder(tmp_path / "runs", n_samples=60)]
    entry = add_entry(runs, tmp_path / "board", tasks, cover={}).verified.folder

    def read() -> bool:
        verified = verify_entry(entry, tasks)
        if not verified.ok:
            raise SnnbenchError("; ".join(map(str, verified.problems)))
        return True

    assert flip_bits(entry / file, read, n).harmless == 0
