"""Pictures of a network before and after: what they show, and the same bytes at every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from snnbench import network_plots, plots
from snnbench.snapshot import Snapshot
from tests.snapshots import make_snapshot, silent_snapshot, steps

BEFORE, AFTER = make_snapshot(0, 0.5), make_snapshot(1, 1.0, predicted=2)
CLASSES = ["null", "eins", "zwei"]


def rasters(before: Snapshot = BEFORE, after: Snapshot = AFTER) -> Figure:
    return network_plots.hidden_rasters(
        before, after, dt_s=0.01, duration_s=0.2, classes=CLASSES, label=2, title="a model"
    )


def activity(before: Snapshot = BEFORE, after: Snapshot = AFTER) -> Figure:
    return network_plots.activity_over_time(before, after, dt_s=0.01, duration_s=0.195)


FIGURES: dict[str, Callable[[], Figure]] = {
    "weights": lambda: network_plots.weight_histograms(BEFORE, AFTER, note="synthetic data"),
    "rates": lambda: network_plots.rate_histograms(BEFORE, AFTER),
    "rasters": rasters,
    "activity": activity,
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


def test_histograms_count_every_weight_before_and_after():
    figure = FIGURES["weights"]()
    assert [axes.get_title("left") for axes in figure.axes] == [
        "input to hidden1",
        "hidden1 to hidden2",
        "hidden2 to readout",
        "within hidden1",
        "within hidden2",
    ]
    for axes, n in zip(figure.axes, (600, 1600, 120, 1600, 1600), strict=True):
        (before, edges), (after, same_edges) = steps(axes)
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
    assert [counts.sum() for counts, _ in steps(axes)] == [4, 4]


def test_silence_has_pictures_too(tmp_path: Path):
    silent = silent_snapshot()
    for name, figure in {
        "weights": network_plots.weight_histograms(silent, silent),
        "rates": network_plots.rate_histograms(silent, silent),
        "rasters": rasters(silent, silent),
        "activity": activity(silent, silent),
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
    before, after = make_snapshot(0, 0.5, layers=5), make_snapshot(1, 1.0, layers=5)
    assert len(network_plots.weight_histograms(before, after).axes) == 11
    assert len(network_plots.rate_histograms(before, after).axes) == 5
    assert len(rasters(before, after).axes) == 12


def test_activity_has_a_step_for_every_bin_up_to_the_end():
    figure = activity()
    assert [axes.get_title("left") for axes in figure.axes] == ["input", "hidden1", "hidden2"]
    for axes, name in zip(figure.axes, ("input", "hidden1", "hidden2"), strict=True):
        for (heights, edges), shown in zip(steps(axes), (BEFORE, AFTER), strict=True):
            np.testing.assert_array_equal(heights, shown.activity_hz[name])
            # the last bin is cut by the end
            np.testing.assert_allclose(edges, [*np.arange(20) * 0.01, 0.195])
    before, after = (s.activity_hz["hidden1"].mean() for s in (BEFORE, AFTER))
    assert figure.axes[1].texts[0].get_text() == f"mean {before:.3g} → {after:.3g} Hz"


def test_one_number_many_times_has_no_spread():
    # NumPy's standard deviation of these is 7e-9
    assert (
        network_plots.spreads(np.full(20, 0.0747, np.float32), np.array([1.0, 3.0])) == "sd 0 → 1"
    )
