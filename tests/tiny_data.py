"""Tiny recordings, and data sets of random spikes: everything that data path tests start from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from snnbench.data_prep.recipe import Recipe, load_recipe, sha256_text
from snnbench.data_prep.store import Header, Sample, create

RATE_HZ = 48_000


def vowel(speaker: int, digit: int, seconds: float = 0.1) -> np.ndarray:
    """A buzz with the speaker's pitch and a formant that tells the digit, float64 in [-1, 1]."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch_hz, formant_hz = 110 + 17 * speaker, 400 + 250 * digit
    harmonics = pitch_hz * np.arange(1, 25)[:, None]
    strength = 1 / (1 + ((harmonics - formant_hz) / 150) ** 2)
    return 0.3 * (strength * np.sin(2 * np.pi * harmonics * t)).sum(axis=0) / strength.sum()


def digit_name(speaker: int, digit: int, language: str = "german") -> str:
    """Name of a recording as the Heidelberg Digits have them."""
    return f"lang-{language}_speaker-{speaker:02d}_trial-0_digit-{digit}"


def write_digits(
    folder: Path, speakers: Iterable[int] = (0, 1, 2), digits: Iterable[int] = (0, 1)
) -> list[Path]:
    """WAV files of 0.1 s at 48 kHz with the Heidelberg Digits' names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for speaker in speakers:
        for digit in digits:
            paths.append(folder / f"{digit_name(speaker, digit)}.wav")
            soundfile.write(paths[-1], vowel(speaker, digit), RATE_HZ, subtype="PCM_16")
    return paths


def tiny_recipe(**changes: Any) -> Recipe:
    """The recipe hd with 64 channels; speaker 02 tests, 01 validates."""
    recipe = load_recipe("hd")
    split = recipe.split.model_copy(
        update={"preferred_test_groups": (), "test_groups": ("02",), "valid_groups": ("01",)}
    )
    return recipe.model_copy(update={"n_units": 64, "split": split, **changes})


def make_header(**changes: Any) -> Header:
    """A header that fits the task hd, with four speakers."""
    facts: dict[str, Any] = {
        "name": "hd",
        "title": "Random spikes",
        "synthetic": False,
        "n_units": 700,
        "duration_s": 1.4,
        "classes": tuple(f"class {i}" for i in range(20)),
        "groups": ("00", "01", "02", "03"),
        "recipe": "{}",
        "recipe_sha256": sha256_text("{}"),
        "licence": "CC0-1.0",
        "citation": "nobody (2026)",
        "made_by": "a test",
    }
    return Header(**{**facts, **changes})


def make_sample(name: str, **changes: Any) -> Sample:
    """Some spikes; the same for the same name."""
    rng = np.random.default_rng(list(name.encode()))
    label = int(rng.integers(20))
    n = int(rng.integers(40, 80))
    fields: dict[str, Any] = {
        "times": np.sort(rng.uniform(0, 1.2, n)).astype(np.float32),
        # units near a place that depends on the class, so that there is something to learn
        "units": np.clip(35 * label + rng.integers(0, 35, n), 0, 699).astype(np.uint16),
        "label": label,
        "group": 0,
        "source_id": name,
        "source_sha256": f"{name:0>64}",
    }
    return Sample(**{**fields, **changes})


def make_samples(split: str, n: int, group: int) -> list[Sample]:
    """Samples of one speaker whose labels run through the classes."""
    return [make_sample(f"{split}-{i}", group=group) for i in range(n)]


def write_dataset(
    path: Path, splits: Mapping[str, Sequence[Sample]] | None = None, **header: Any
) -> Path:
    """A SpikeDataset file; by default of 40 training, 20 validation and 20 test samples."""
    splits = splits or {
        "train": [*make_samples("train", 20, 0), *make_samples("more", 20, 1)],
        "valid": make_samples("valid", 20, 2),
        "test": make_samples("test", 20, 3),
    }
    with create(path, make_header(**header)) as writer:
        for split, samples in splits.items():
            writer.append(split, samples)
    return path
