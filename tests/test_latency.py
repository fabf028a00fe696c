"""Latency code: the closed form, hand-computed times, and the SpyTorch tutorials' steps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from snnbench.data_prep import convert as conversion
from snnbench.data_prep.encoders import encoder_of
from snnbench.data_prep.latency import LatencyEncoder, latency_s
from snnbench.data_prep.recipe import LatencySpec, load_recipe
from snnbench.data_prep.sources import NO_GROUPS, Recording
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError
from tests.tiny_images import idx_bytes, image_recipe, write_images

SPEC = LatencySpec(tau_s=20e-3, threshold=0.2)
RAMP = np.arange(256).reshape(16, 16)


def encode(folder: Path, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    path = folder / "images"
    path.write_bytes(idx_bytes(image[None]))
    recording = Recording(path, "train/00000", 0, NO_GROUPS)
    encoded = LatencyEncoder(SPEC, image.size)(recording)
    return encoded.times, encoded.units


def test_the_closed_form_at_places_worked_out_by_hand() -> None:
    def at(x: float) -> float:
        return latency_s(x, tau_s=20e-3, threshold=0.2)

    assert at(1.0) == pytest.approx(20e-3 * math.log(5 / 4))  # 4.46 ms
    assert at(0.4) == pytest.approx(20e-3 * math.log(2))
    assert at(52 / 255) == pytest.approx(20e-3 * math.log(52))  # 79.0 ms, the last of 8 bits
    assert at(0.2) == at(0.1) == at(0.0) == math.inf
    # a current x into tau dv/dt = x - v reaches the threshold then
    for x in (0.21, 0.5, 0.9):
        assert x * (1 - math.exp(-at(x) / 20e-3)) == pytest.approx(0.2)


def test_every_grey_value_fires_when_the_formula_says(tmp_path: Path) -> None:
    times, units = encode(tmp_path, RAMP)
    assert units.tolist() == list(range(255, 51, -1))  # brighter is earlier, 51 = 0.2 is silent
    expected = [20e-3 * math.log(p / (p - 51)) for p in range(255, 51, -1)]
    np.testing.assert_allclose(times, expected, rtol=6e-8)
    assert times.dtype == np.float32
    assert units.dtype == np.uint16


def test_the_last_bits_of_a_logarithm_change_no_time() -> None:
    """No time lies so near to the middle between two float32 that another library could round it
    elsewhere."""
    for pixel in range(52, 256):
        time = latency_s(pixel / 255, tau_s=20e-3, threshold=0.2)
        near = {float(np.float32(time * (1 + e))) for e in (-2e-14, 0.0, 2e-14)}
        assert len(near) == 1


def test_steps_are_those_of_the_spytorch_tutorials(tmp_path: Path) -> None:
    """There: whole steps of 1 ms by cutting, a floor of 1e-7 above the threshold, 100 steps."""
    brightness = RAMP.ravel() / 255
    above = np.clip(brightness, 0.2 + 1e-7, None)
    steps = np.where(brightness < 0.2, 100, 20 * np.log(above / (above - 0.2))).astype(int)
    times, units = encode(tmp_path, RAMP)
    assert sorted(units) == np.flatnonzero(steps < 100).tolist()
    np.testing.assert_array_equal((times.astype(float) * 1e3).astype(int), steps[units])


@given(image=arrays(np.uint8, (5, 7)))
def test_at_most_one_spike_a_pixel_in_order(
    tmp_path_factory: pytest.TempPathFactory, image: np.ndarray
) -> None:
    times, units = encode(tmp_path_factory.mktemp("image"), image)
    assert sorted(units) == np.flatnonzero(image > 51).tolist()
    keys = list(zip(times.tolist(), units.tolist(), strict=True))
    assert keys == sorted(keys)
    brightness = image.ravel()[units].astype(int)
    assert (np.diff(brightness) <= 0).all()


def test_a_set_of_images_becomes_a_file(tmp_path: Path) -> None:
    source = write_images(tmp_path / "source")
    prints = set()
    for workers, packed in ((1, False), (2, False), (1, True)):
        out = tmp_path / f"{workers}{packed}.h5"
        if packed:
            source = write_images(tmp_path / "packed", packed=True)
        conversion.convert(image_recipe("mnist-latency"), source, out, workers=workers)
        with SpikeDataset.open(out) as dataset:
            dataset.check()
            prints.add(dataset.fingerprint)
            assert [dataset.n_samples(s) for s in dataset.splits] == [20, 10, 20]
            assert dataset.read("valid").source_ids[0] == "train/00020"
            assert dataset.read("test").labels.tolist() == [i % 10 for i in range(20)]
            assert '"latency":{"tau_s":0.02,"threshold":0.2}' in dataset.header.recipe
            assert (dataset.header.n_units, dataset.header.duration_s) == (784, 0.1)
    assert len(prints) == 1


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    source = write_images(tmp_path / "source", side=16)
    with pytest.raises(
        SnnbenchError, match="images have 256 pixels, but the recipe's n_units is 784"
    ):
        conversion.convert(image_recipe("mnist-latency"), source, tmp_path / "x.h5", workers=1)


def test_a_recipe_with_two_ways_to_spikes_is_refused() -> None:
    recipe = load_recipe("mnist-latency").model_dump()
    with pytest.raises(ValidationError, match=r"\[cochlea\] and \[latency\]: .* one way"):
        type(load_recipe("hd")).model_validate(recipe | {"cochlea": {}})
    assert isinstance(encoder_of(load_recipe("fashion-mnist-latency")), LatencyEncoder)
