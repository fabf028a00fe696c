"""Small files laid out as the published SHD and SSC files are: for tests of reading them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from snnbench.data_prep.recipe import load_recipe

CLASSES = load_recipe("shd").classes
Change = Callable[[h5py.File], Any]


def write_published(
    path: Path, speakers: list[int], change: Change | None = None, words: int = 2
) -> Path:
    """A file of `words` samples per speaker, classes in turn, 50 spikes each, up to 1.2 s."""
    rng = np.random.default_rng(len(speakers))
    n = words * len(speakers)
    with h5py.File(path, "w") as file:
        times = file.create_dataset("spikes/times", (n,), h5py.vlen_dtype(np.float16))
        units = file.create_dataset("spikes/units", (n,), h5py.vlen_dtype(np.int64))
        for i in range(n):
            times[i] = np.sort(rng.uniform(0, 1.2, 50).astype(np.float16))
            units[i] = rng.integers(0, 700, 50)
        file["labels"] = np.arange(n) % len(CLASSES)
        file["extra/speaker"] = np.repeat(speakers, words)
        file["extra/keys"] = [name.encode() for name in CLASSES]
        file["extra/meta_info/gender"] = [b"female"] * 12
        file["extra/meta_info/age"] = np.full(12, 30)
        file["extra/meta_info/body_height"] = np.full(12, 170)
        if change:
            change(file)
    return path


def published(folder: Path, change: Change | None = None, words: int = 2) -> tuple[Path, Path]:
    """Train and test files of SHD; speakers 4 and 5 are in test only, as published."""
    folder.mkdir(exist_ok=True)
    return (
        write_published(folder / "shd_train.h5", [0, 1, 7, 8, 9], change, words),
        write_published(folder / "shd_test.h5", [0, 4, 5, 8], change, words),
    )


def samples_of(path: Path) -> list[tuple[list[float], list[int], int, int]]:
    """Times (s), units, label and speaker of every sample of a published file."""
    with h5py.File(path) as file:
        return [
            (t.tolist(), u.tolist(), int(label), int(speaker))
            for t, u, label, speaker in zip(
                file["spikes/times"][()],
                file["spikes/units"][()],
                file["labels"][()],
                file["extra/speaker"][()],
                strict=True,
            )
        ]
