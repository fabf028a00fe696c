"""Tiny IDX files and recipes over them: what the image data sets' tests start from."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from snnbench.data_prep.recipe import Recipe, load_recipe

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_bytes(values: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


def write_images(
    folder: Path, n_train: int = 30, n_test: int = 20, side: int = 28, packed: bool = False
) -> Path:
    """Four IDX files of random images whose labels run through ten classes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(n_train)
    contents = []
    for n in (n_train, n_test):
        images = rng.integers(0, 256, (n, side, side))
        # a third is black and a third white, as on MNIST
        images = np.where(images < 85, 0, np.where(images > 170, 255, images))
        contents += [images, np.arange(n) % 10]
    for name, values in zip(IDX_NAMES, contents, strict=True):
        content = idx_bytes(values)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def image_recipe(name: str, **changes: Any) -> Recipe:
    """A recipe over `write_images`: no known hashes or counts, and ten images validate."""
    recipe = load_recipe(name)
    split = recipe.split.model_copy(update={"valid_last": 10})
    tiny: dict[str, Any] = {"split": split, "download": None, "expected_samples": {}}
    return recipe.model_copy(update=tiny | changes)
