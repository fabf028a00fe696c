"""Pictures of a network before and after: what they show, and the same bytes at every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from numpy.typing import NDArray
from PIL import Image

from snnbench import network_plots, plots
from snnbench.snapshot import Raster, Snapshot


def snapshot(seed: int, scale: float, layers: int = 2, predicted: int = 0) -> Snapshot:
    rng = np.random.default_rng(seed)
    names = [f"hidden{i}" for i in range(1, layers + 1)]
    weights = {f"within {name}": (rng.normal(size=900) * scale).astype("f4") for name in names}
    return Snapshot(
        weights={"input to hidden1": np.full(600, scale, "f4"), **weights},
        rates_hz={name: rng.exponential(5 * scale, 40) for name in names},
        sample=7,
        rasters={
            name: Raster(rng.integers(0, 20, 90), rng.integers(0, 40, 90), 40, 95)
            for name in ("input", *names)
        },
        predicted=predicted,
    )


BEFORE, AFTER = snapshot(0, 0.5), snapshot(1, 1.0, predicted=2)
CLASSES = ["null", "eins", "zwei"]


def rasters(before: Snapshot = BEFORE, after: Snapshot = AFTER) -> Figure:
    return network_plots.hidden_rasters(
        before, after, dt_s=0.01, duration_s=0.2, classes=CLASSES, label=2, title="a model"
    )


FIGURES: dict[str, Callable[[], Figure]] = {
    "weights": lambda: network_plots.weight_histograms(BEFORE, AFTER, note="synthetic data"),
    "rates": lambda: network_plots.rate_histograms(BEFORE, AFTER),
    "rasters": rasters,
}


@pytest.mark.parametrize("name", FIGURES)
def test_pictures_are_not_empty_and_the_same_at_every_run(name: str, tmp_path: Path):
    for suffix in ("svg", "png"):
        for run in ("first", "second"):
            plots.save(FIGURES[name](), tmp_path / f"{run}.{suffix}")
        first = (tmp_path / f"first.{suffix}").read_bytes()
        assert first == (tmp_path / f"second.{suffix}").read_bytes()
    with Image.open(tmp_path / "first.png") as image:
        grey = np.asarray(image.convert("L"))
    assert 0.002 < (grey < 200).mean() < 0.5


def histograms(axes: Axes) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Counts and edges of the histograms in a panel."""
    drawn = [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]
    return [(counts, edges) for counts, edges, _ in drawn]


def test_histograms_count_every_weight_before_and_after():
    figure = FIGURES["weights"]()
    assert [axes.get_title("left") for axes in figure.axes] == [
        "input to hidden1",
        "within hidden1",
        "within hidden2",
    ]
    for axes, n in zip(figure.axes, (600, 900, 900), strict=True):
        (before, edges), (after, same_edges) = histograms(axes)
        assert before.sum() == after.sum() == n
        # both on one scale, symmetric about zero
        np.testing.assert_array_equal(edges, same_edges)
        np.testing.assert_allclose(edges, -edges[::-1], atol=1e-6)
    assert "600 weights" in figure.axes[0].texts[0].get_text()


def test_rates_tell_the_mean_and_the_silent_units():
    before = BEFORE._replace(rates_hz={"hidden1": np.array([0.0, 0.0, 2.0, 6.0])})
    after = AFTER._replace(rates_hz={"hidden1": np.array([0.0, 4.0, 4.0, 8.0])})
    (axes,) = network_plots.rate_histograms(before, after).axes
    assert axes.texts[0].get_text() == "mean 2 → 4 Hz\nsilent 50% → 25%"
    assert [counts.sum() for counts, _ in histograms(axes)] == [4, 4]


def test_silence_has_pictures_too(tmp_path: Path):
    silent = Snapshot(
        weights={"input to hidden1": np.zeros(4, "f4")},
        rates_hz={"hidden1": np.zeros(4)},
        sample=0,
        rasters={n: Raster(np.zeros(0, int), np.zeros(0, int), 4, 0) for n in ("input", "hidden1")},
        predicted=0,
    )
    for name, figure in {
        "weights": network_plots.weight_histograms(silent, silent),
        "rates": network_plots.rate_histograms(silent, silent),
        "rasters": rasters(silent, silent),
    }.items():
        plots.save(figure, tmp_path / f"{name}.png")


def test_rasters_show_the_same_sample_side_by_side():
    figure = rasters()
    grid = np.array(figure.axes).reshape(3, 2)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["input", "hidden1", "hidden2"]
    assert grid[0, 0].get_title("left") == "Before training: taken for “null”"
    assert grid[0, 1].get_title("left") == "After training: taken for “zwei”"
    assert "Validation sample 7, class “zwei”" in [t.get_text() for t in figure.texts]
    for column, shown in zip(grid.T, (BEFORE, AFTER), strict=True):
        for axes, raster in zip(column, shown.rasters.values(), strict=True):
            (line,) = axes.lines
            np.testing.assert_allclose(line.get_xdata(), (raster.bins + 0.5) * 0.01)
            np.testing.assert_array_equal(line.get_ydata(), raster.units)
            assert axes.texts[0].get_text() == "95 spikes"
    assert grid[2, 1].get_xlim() == (0, 0.2)


def test_many_layers_go_into_rows():
    before, after = snapshot(0, 0.5, layers=5), snapshot(1, 1.0, layers=5)
    assert len(network_plots.weight_histograms(before, after).axes) == 6
    assert len(network_plots.rate_histograms(before, after).axes) == 5
    assert len(rasters(before, after).axes) == 12
