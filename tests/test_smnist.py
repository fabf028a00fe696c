"""Threshold crossings: a trace by hand, and tonic's S-MNIST event for event."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from snnbench.data_prep import convert as conversion
from snnbench.data_prep.encoding import Encoded
from snnbench.data_prep.recipe import Recipe, ThresholdCrossingSpec, load_recipe
from snnbench.data_prep.sources import NO_GROUPS, Recording
from snnbench.data_prep.store import SpikeDataset
from snnbench.data_prep.threshold_crossing import ThresholdCrossingEncoder, crossings
from tests.tiny_images import IDX_NAMES, idx_bytes, image_recipe, write_images


def encode(path: Path, position: int = 0, *, n_units: int = 99, duplicate: bool = True) -> Encoded:
    spec = ThresholdCrossingSpec(dt_s=1e-3, duplicate=duplicate)
    recording = Recording(path, "train/00000", 0, NO_GROUPS, position=position)
    return ThresholdCrossingEncoder(spec, n_units)(recording)


def test_a_trace_worked_out_by_hand(tmp_path: Path) -> None:
    """Five units: thresholds 0 and 254; on units 5 (never) and 4, off units 3 (never) and 2, touch 0."""
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(np.array([[[0, 254, 255, 253], [253, 255, 0, 0]]])))
    once = encode(path, n_units=5, duplicate=False)
    # up to 254 after pixel 0; 255 at pixel 2; below after pixel 2; up after 4; 255 at 5, down after it
    spikes = [(0, 4), (2, 0), (2, 2), (4, 4), (5, 0), (5, 2)]
    assert [(round(t * 1e3), u) for t, u in zip(once.times, once.units, strict=True)] == spikes
    twice = encode(path, n_units=5, duplicate=True)
    doubled = sorted((2 * step + again, u) for step, u in spikes for again in (0, 1))
    assert [(round(t * 1e3), u) for t, u in zip(twice.times, twice.units, strict=True)] == doubled
    # as exact as the bin edges: step * dt in float64, then float32
    np.testing.assert_array_equal(
        twice.times, (np.array([s for s, _ in doubled]) * 1e-3).astype(np.float32)
    )


@given(pixels=arrays(np.uint8, 40))
def test_the_crossings_tell_the_grey_values(pixels: np.ndarray) -> None:
    """On minus off spikes up to a step are the number of thresholds reached."""
    steps, units = crossings(pixels, 99)
    thresholds = [254 * k // 48 for k in range(49)]
    reached = np.array([sum(p >= t for t in thresholds) for p in pixels])
    sign = np.where(units == 0, 0, np.where(units > 50, 1, -1))
    change = np.bincount(steps, sign, minlength=len(pixels))[:-1]
    np.testing.assert_array_equal(change, np.diff(reached))
    assert units.max(initial=0) < 99
    assert (units == 0).sum() == (pixels == 255).sum()


def assert_as_tonic(folder: Path, n_units: int, duplicate: bool, n_images: int) -> None:
    """`folder` holds smnist/ with the four unpacked files, as tonic wants them."""
    tonic = pytest.importorskip("tonic", reason="needs the optional package tonic")
    for train, name in ((True, IDX_NAMES[0]), (False, IDX_NAMES[2])):
        theirs = tonic.datasets.SMNIST(
            str(folder), train=train, num_neurons=n_units, duplicate=duplicate, dt=1000.0
        )
        for i in range(min(n_images, len(theirs))):
            events, _ = theirs[i]
            order = np.lexsort((events["x"], events["t"]))
            ours = encode(folder / "smnist" / name, i, n_units=n_units, duplicate=duplicate)
            np.testing.assert_array_equal(ours.units, events["x"][order])
            np.testing.assert_array_equal(ours.times, (events["t"][order] / 1e6).astype(np.float32))


@pytest.mark.parametrize("duplicate", [True, False])
@pytest.mark.parametrize("n_units", [5, 33, 99, 201])
def test_events_are_tonics(tmp_path: Path, n_units: int, duplicate: bool) -> None:
    write_images(tmp_path / "smnist", n_train=8, n_test=2)
    assert_as_tonic(tmp_path, n_units, duplicate, 10)


def test_events_of_real_images_are_tonics(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "smnist").mkdir()
    for name in IDX_NAMES:
        with (
            gzip.open(shared_data / "mnist" / f"{name}.gz") as packed,
            open(tmp_path / "smnist" / name, "wb") as plain,
        ):
            shutil.copyfileobj(packed, plain)
    assert_as_tonic(tmp_path, 99, True, 200)


def test_a_set_of_images_becomes_a_file(tmp_path: Path) -> None:
    source = write_images(tmp_path / "source")
    out = tmp_path / "out.h5"
    conversion.convert(image_recipe("smnist"), source, out, workers=1)
    with SpikeDataset.open(out) as dataset:
        dataset.check()
        assert [dataset.n_samples(s) for s in dataset.splits] == [20, 10, 20]
        expected = encode(source / IDX_NAMES[0], 20)
        times, units = dataset.read("valid").sample(0)
        np.testing.assert_array_equal(times, expected.times)
        np.testing.assert_array_equal(units, expected.units)
        assert '"threshold_crossing":{"dt_s":0.001,"duplicate":true}' in dataset.header.recipe
        assert float(times.max()) < dataset.header.duration_s == 1.568


@pytest.mark.parametrize("n_units", [1, 98])
def test_a_number_of_units_that_has_no_middle_is_refused(n_units: int) -> None:
    recipe = load_recipe("smnist").model_dump() | {"n_units": n_units}
    with pytest.raises(ValidationError, match=f"n_units: {n_units}, but .* an odd number"):
        Recipe.model_validate(recipe)
