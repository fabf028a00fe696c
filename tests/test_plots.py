"""Pictures: what is drawn is where it belongs, files are the same at every run."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from snnbench import plots
from snnbench.errors import SnnbenchError, UsageError
from snnbench.plots import AccuracyPoint

HISTORY: dict[str, list[float]] = {
    "epoch": [1, 2, 3, 4],
    "loss": [2.0, 1.0, 0.8, float("nan")],
    "train_accuracy": [0.2, 0.6, 0.8, 0.9],
    "valid_accuracy": [0.7, 0.5, 0.7, 0.6],
    "rate_hz.hidden_1": [9.0, 8.0, 7.5, 7.0],
    "rate_hz.hidden_2": [1.0, 2.0, 3.0, 4.0],
    "seconds": [1.0, 1.0, 1.0, 1.0],
}
POINTS = [
    AccuracyPoint("ff-lif", 100.0, 0.70, 0.02),
    AccuracyPoint("rec-lif", 110.0, 0.80, 0.01),
    AccuracyPoint("one seed", 5000.0, 0.90, float("nan")),
]


def _raster() -> Figure:
    rng = np.random.default_rng(0)
    return plots.audio_raster(
        np.sort(rng.uniform(0, 0.8, 3000)),
        rng.integers(0, 700, 3000),
        n_units=700,
        duration_s=1.0,
        title="seven costs $5 & <more>",
        waveform=np.sin(np.arange(16000) / 20),
        sample_rate_hz=20_000.0,
        note="synthetic speech",
    )


FIGURES: dict[str, Callable[[], Figure]] = {
    "raster": _raster,
    "curves": lambda: plots.learning_curves(HISTORY),
    "confusion": lambda: plots.confusion_matrix([[3, 1], [0, 4]], ["null", "fünf"]),
    "accuracy": lambda: plots.accuracy_against_spikes(POINTS),
}


@pytest.mark.parametrize("name", FIGURES)
def test_pictures_are_not_empty_and_the_same_at_every_run(name: str, tmp_path: Path) -> None:
    for suffix in ("svg", "png", "pdf"):
        for run in ("first", "second"):
            plots.save(FIGURES[name](), tmp_path / f"{run}.{suffix}")
        first = (tmp_path / f"first.{suffix}").read_bytes()
        assert first == (tmp_path / f"second.{suffix}").read_bytes()
    with Image.open(tmp_path / "first.png") as image:
        grey = np.asarray(image.convert("L"))
    assert min(grey.shape) > 300
    assert 0.002 < (grey < 200).mean() < 0.5  # marks on a white ground
    assert sorted(p.name for p in tmp_path.glob("*.*")) == sorted(
        f"{run}.{suffix}" for run in ("first", "second") for suffix in ("svg", "png", "pdf")
    )


def test_svg_keeps_text_and_packs_many_spikes(tmp_path: Path) -> None:
    plots.save(_raster(), tmp_path / "raster.svg")
    svg = (tmp_path / "raster.svg").read_text("utf-8")
    for text in (
        "seven costs $5 &amp; &lt;more&gt;",
        "synthetic speech",
        "3,000 spikes in 700 cochlea channels",
        "Characteristic frequency (kHz)",
    ):
        assert f">{text}</text>" in svg
    assert svg.count("<image") == 1
    assert len(svg) < 250_000
    assert not re.search(r"dc:date", svg)


@pytest.mark.parametrize("name", ["picture.jpg", "picture", "picture.svgz"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"take \.png, \.svg or \.pdf"):
        plots.save(FIGURES["confusion"](), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SnnbenchError, match=r"file/a\.png: cannot write"):
        plots.save(FIGURES["confusion"](), tmp_path / "file" / "a.png")


def test_raster_has_high_frequencies_on_top() -> None:
    sound, raster = _raster().axes
    bottom, top = raster.get_ylim()
    assert bottom > top
    assert raster.get_xlim() == (0.0, 1.0)
    assert sound.get_shared_x_axes().joined(sound, raster)
    # the place-frequency map: unit 200 hears 5.0 kHz, unit 600 hears 245 Hz (specification, section 2)
    labels = [label.get_text() for label in raster.get_yticklabels()]
    ticks = dict(zip(labels, raster.get_yticks(), strict=True))
    assert ticks["5"] == pytest.approx(200, abs=1)
    assert ticks["0.25"] == pytest.approx(597, abs=3)
    assert list(ticks.values()) == sorted(ticks.values())


def test_raster_without_sound_and_without_spikes() -> None:
    figure = plots.audio_raster([], [], n_units=70, duration_s=0.5, title="silence")
    (raster,) = figure.axes
    assert raster.get_xlim() == (0.0, 0.5)
    with pytest.raises(ValueError, match="sample_rate_hz"):
        plots.audio_raster([], [], n_units=70, duration_s=0.5, title="", waveform=[0.0])


def test_curves_mark_the_earlier_of_two_best_epochs() -> None:
    figure = plots.learning_curves(HISTORY)
    assert "Epoch 1 chosen: validation accuracy 70.0%" in [t.get_text() for t in figure.texts]
    loss, accuracy, rates = figure.axes
    assert np.asarray(loss.lines[0].get_xdata()).tolist() == [1, 1]
    assert {line.get_label() for line in rates.lines} >= {"hidden_1", "hidden_2"}
    assert np.asarray(accuracy.lines[-1].get_xydata()).tolist() == [[1, 0.7]]


@pytest.mark.parametrize("n", [0, 1])
def test_curves_of_short_histories(n: int, tmp_path: Path) -> None:
    short = {name: column[:n] for name, column in HISTORY.items() if "rate" not in name}
    figure = plots.learning_curves(short)
    plots.save(figure, tmp_path / "curves.png")
    assert len(figure.axes) == 2


def test_confusion_matrix_writes_counts_and_checks_its_shape() -> None:
    figure = plots.confusion_matrix([[3, 1], [0, 4]], ["null", "eins"])
    assert [t.get_text() for t in figure.axes[0].texts] == ["3", "1", "4"]
    assert "7 of 8 correct (87.5%)" in [t.get_text() for t in figure.texts]
    share = figure.axes[0].images[0].get_array()
    assert share is not None
    assert share.tolist() == [[0.75, 0.25], [0.0, 1.0]]
    large = plots.confusion_matrix(np.eye(35, dtype=int), [f"word {i}" for i in range(35)])
    assert not large.axes[0].texts
    with pytest.raises(ValueError, match=r"\(2, 2\), expected \(3, 3\)"):
        plots.confusion_matrix([[3, 1], [0, 4]], ["a", "b", "c"])
    plots.confusion_matrix(np.zeros((2, 2), int), ["a", "b"])  # a class without samples


def test_accuracy_axis_is_logarithmic_where_wide_and_names_do_not_overlap() -> None:
    figure = plots.accuracy_against_spikes(POINTS)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert plots.accuracy_against_spikes(POINTS[:2]).axes[0].get_xscale() == "linear"
    assert plots.accuracy_against_spikes([]).axes[0].get_xscale() == "linear"

    crowd = [AccuracyPoint(f"model-{i}", 1000.0 + 8 * i, 0.9 + 0.001 * (i % 3)) for i in range(6)]
    figure = plots.accuracy_against_spikes([*crowd, AccuracyPoint("far", 4000.0, 0.5)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert [t.get_text() for t in figure.axes[0].texts] == [*(p.name for p in crowd), "far"]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_pictures_leave_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    for make in FIGURES.values():
        make()
    assert dict(matplotlib.rcParams) == before
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_real_recording(shared_data: Path, tmp_path: Path) -> None:
    with np.load(shared_data / "lauscher-reference" / "seven_48k_seed0.npz") as file:
        times, units = file["times"], file["units"]
    figure = plots.audio_raster(times, units, n_units=700, duration_s=0.52, title="seven")
    plots.save(figure, tmp_path / "seven.svg")
    assert (tmp_path / "seven.svg").stat().st_size < 250_000
