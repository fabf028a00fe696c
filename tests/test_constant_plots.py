"""Pictures of units' constants and of delays: every value is counted, in ms where it is a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from snnbench.constant_plots import constant_histograms, delay_histograms
from snnbench.plots import save
from snnbench.snapshot import UnitValues
from tests.snapshots import make_snapshot, silent_snapshot, steps, texts

BEFORE, AFTER = make_snapshot(0, 0.5), make_snapshot(1, 1.0)


def with_constant(name: str, *values: float, **facts: Any) -> Any:
    """A snapshot whose only constant is this one, of hidden2."""
    facts = {"learned": True, "logarithmic": True, **facts}
    constant = UnitValues(np.array(values, "f4"), **facts)
    return AFTER._replace(constants={"hidden2": {name: constant}})


def test_every_unit_is_counted_before_and_after_within_the_bounds():
    figure = constant_histograms(BEFORE, AFTER)
    assert [axes.get_title("left") for axes in figure.axes] == [
        *("hidden1, tau_mem", "hidden1, threshold"),
        *("hidden2, tau_mem", "hidden2, threshold"),
    ]
    for axes, (low, high) in zip(figure.axes, 2 * [(5, 100), (0.5, 1.5)], strict=True):
        for counts, edges in steps(axes):
            assert counts.sum() == 40
            assert (edges[0], edges[-1]) == (low, high)
        assert [np.asarray(line.get_xdata())[0] for line in axes.lines] == [low, high]
        assert axes.get_xlim()[0] < low < high < axes.get_xlim()[1]
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["tau_mem (ms)", "threshold"]


def test_times_are_in_ms_and_other_constants_as_they_are():
    bounds = {"low": 0.01, "high": 0.1}
    (axes,) = constant_histograms(
        with_constant("tau_syn_s", 0.02, 0.04, **bounds),
        with_constant("tau_syn_s", 0.05, 0.07, **bounds),
    ).axes
    assert texts(axes) == ["mean 30 → 60 ms\nsd 10 → 10"]
    bounds = {"low": -1.0, "high": 3.0, "logarithmic": False}
    (axes,) = constant_histograms(
        with_constant("b", 0, 2, **bounds), with_constant("b", 1, 1, **bounds)
    ).axes
    assert texts(axes) == ["mean 1 → 1\nsd 1 → 0"]
    assert axes.get_xscale() == "linear"


def test_what_is_not_learned_is_said_to_be_drawn():
    snapshot = with_constant("tau_adapt_s", 0.1, 0.2, low=0.05, high=0.3, learned=False)
    (axes,) = constant_histograms(snapshot, snapshot).axes
    assert texts(axes) == ["drawn, not learned\nmean 150 ms"]


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_a_value_that_rounding_puts_beyond_a_bound_is_counted(bound: float):
    low, high = 0.0123, 0.0617
    value = np.float32(high if bound else low)
    beyond = np.nextafter(value, np.float32(1.0 if bound else 0.0))
    assert not low <= float(beyond) <= high
    snapshot = with_constant("tau_mem_s", beyond, low=low, high=high)
    (axes,) = constant_histograms(snapshot, snapshot).axes
    assert [counts.sum() for counts, _ in steps(axes)] == [1, 1]


def test_every_delay_is_counted_in_ms():
    (axes,) = delay_histograms(BEFORE, AFTER).axes
    for (counts, edges), snapshot in zip(steps(axes), (BEFORE, AFTER), strict=True):
        expected, _ = np.histogram(1e3 * snapshot.delays_s["input to hidden1"], edges)
        np.testing.assert_array_equal(counts, expected)
        assert counts.sum() == 600
    assert steps(axes)[0][1][-1] == pytest.approx(100, rel=0.02)
    assert axes.get_xlabel() == "Delay (ms)"
    before, after = (1e3 * s.delays_s["input to hidden1"].mean() for s in (BEFORE, AFTER))
    assert f"600 delays\nmean {before:.3g} → {after:.3g} ms" in texts(axes)[0]


def test_no_delay_at_all_has_a_picture(tmp_path):
    silent = silent_snapshot()
    save(delay_histograms(silent, silent), tmp_path / "delays.png")
