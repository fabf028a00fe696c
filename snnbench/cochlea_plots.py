"""Pictures of the cochlea at work: its stages for one recording, its frequency map, its rate curve."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MultipleLocator, NullLocator
from numpy.typing import NDArray

from snnbench.data_prep.basilar_membrane import characteristic_frequency_hz, places_cm
from snnbench.data_prep.cochlea import CochleaParameters, Spikes
from snnbench.data_prep.cochlea_curves import RateLevel, place_of_cm, tuning
from snnbench.data_prep.cochlea_stages import StageSums
from snnbench.plots import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    QUIET,
    STYLE,
    draw_waveform,
    frequency_ticks,
    titled_figure,
)

_KHZ = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
_TUNED_HZ = (200, 500, 1000, 2000, 5000, 10000)
_MAP_PLACES = 60
_VELOCITY_RANGE_DB = 60


def cochlea_stages(
    sound: NDArray[np.float64],
    sample_rate_hz: int,
    stages: StageSums,
    spikes: Spikes,
    parameters: CochleaParameters,
    *,
    title: str,
    note: str = "",
) -> Figure:
    """Sound, membrane velocity, hair-cell probability, fibre spikes and bushy-cell spikes.

    One time axis for all; the base, which hears high frequencies and is unit 0, on top.
    """
    n_channels, duration_s = parameters.n_channels, len(sound) / sample_rate_hz
    subtitle = f"{len(spikes.times):,} bushy-cell spikes in {n_channels} channels"
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(7.2, 9.6, title, subtitle, note)
        panels = figure.subplots(5, 1, sharex=True, height_ratios=(0.8, 2, 2, 2, 2.4))
        draw_waveform(panels[0], sound, sample_rate_hz)
        decibels = 20 * np.log10(np.maximum(stages.velocity / stages.velocity.max(), 1e-12))
        highest_hz = max(1.0, float(np.quantile(stages.wanted_hz, 0.999)))
        images = (
            ("Membrane velocity", decibels, "magma", -_VELOCITY_RANGE_DB, 0, "dB re largest"),
            (
                "Hair cell: spike probability P",
                stages.wanted_hz,
                "viridis",
                0,
                highest_hz,
                "P / dt (1/s)",
            ),
            (
                f"Fibres: spikes, mean of {parameters.n_fibres}",
                stages.fibre_hz,
                "viridis",
                0,
                highest_hz,
                "1/s",
            ),
        )
        for axes, (name, values, colours, low, high, unit) in zip(panels[1:4], images, strict=True):
            image = axes.imshow(
                values.T,
                aspect="auto",
                interpolation="nearest",
                cmap=colours,
                vmin=low,
                vmax=high,
                extent=(0, len(values) * stages.bin_s, n_channels - 0.5, -0.5),
            )
            bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=14)
            bar.outline.set_visible(False)
            bar.ax.tick_params(length=0)
            bar.set_label(unit)
            axes.set_title(name)
        panels[4].plot(
            spikes.times,
            spikes.units,
            linestyle="none",
            marker="o",
            markersize=1.15,
            markeredgewidth=0,
            color=BLUE,
            rasterized=True,
        )
        panels[4].set_title("Bushy cells: one dot a spike")
        positions, labels = frequency_ticks(n_channels, parameters.membrane)
        for axes in panels[1:]:
            axes.set_ylim(n_channels - 0.5, -0.5)
            axes.set_yticks(positions, labels)
        panels[0].set_xlim(0, duration_s)
        panels[4].set_xlabel("Time (s)")
        figure.supylabel("Characteristic frequency (kHz), unit 0 on top", fontsize=9)
    return figure


def frequency_map(parameters: CochleaParameters, sample_rate_hz: int, *, note: str = "") -> Figure:
    """Which frequency moves which place: resonance, measured peak of |V|, and tuning of some places."""
    membrane = parameters.membrane
    places = places_cm(_MAP_PLACES, membrane)
    peaks = np.empty(_MAP_PLACES)
    for i, place in enumerate(places):
        frequency_hz, gain = tuning(float(place), membrane)
        peaks[i] = frequency_hz[gain.argmax()]
    resonance = characteristic_frequency_hz(places, membrane)
    limit_khz = sample_rate_hz // 2 / 2e3
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(
            9.0,
            3.9,
            "Frequency map of the basilar membrane",
            f"Resonance {resonance[0] / 1e3:.1f} kHz at the base (unit 0) to"
            f" {resonance[-1]:.0f} Hz at the apex (unit {parameters.n_channels - 1})",
            note,
        )
        left, right = figure.subplots(1, 2)
        unit = np.linspace(0, parameters.n_channels - 1, _MAP_PLACES)
        left.plot(unit, resonance / 1e3, color=BLUE, label="resonance (CF)")
        left.plot(
            unit,
            peaks / 1e3,
            "o",
            color=ORANGE,
            markersize=3,
            clip_on=False,
            label="largest gain |V|",
        )
        left.axhspan(limit_khz, 1e3, color=FAINT, linewidth=0)
        left.text(
            parameters.n_channels,
            limit_khz * 1.06,
            f"above {limit_khz:g} kHz, a quarter of the sound’s rate ",
            ha="right",
            va="bottom",
            fontsize=7.5,
            color=QUIET,
        )
        left.set_title("Frequency of each unit")
        left.set_yscale("log")
        left.set_ylim(0.8e-3 * peaks.min(), 1.4e-3 * resonance.max())
        _kilohertz(left.yaxis)
        left.set_ylabel("Frequency (kHz)")
        left.set_xlim(0, parameters.n_channels)
        left.set_xlabel("Unit (0 is the base)")
        left.legend(loc="lower left")
        for best_hz in _TUNED_HZ:
            if not resonance[-1] < best_hz < resonance[0]:
                continue
            frequency_hz, gain = tuning(place_of_cm(best_hz, membrane), membrane)
            right.plot(frequency_hz / 1e3, 20 * np.log10(gain), color=BLUE, linewidth=1.2)
        right.set_xscale("log")
        right.set_xlim(0.05, 25)
        right.set_ylim(-20, 50)
        _kilohertz(right.xaxis)
        right.set_title("Tuning of six places, CF 0.2 to 10 kHz")
        right.set_xlabel("Frequency (kHz)")
        right.set_ylabel("Gain |V| (dB)")
        right.grid()
    return figure


def rate_level_curve(curve: RateLevel, *, note: str = "") -> Figure:
    """Firing of fibres and bushy cell at one place against the level of a tone."""
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(
            6.4,
            4.2,
            "Rate and level",
            f"Tone of {curve.tone_hz:.0f} Hz, at the place it moves most",
            note,
        )
        axes = figure.add_subplot()
        axes.grid()
        for rate, colour, label in (
            (curve.fibre_onset, GREEN, "fibre, first 10 ms"),
            (curve.fibre_adapted, BLUE, "fibre, after 100 ms"),
            (curve.bushy_adapted, ORANGE, "bushy cell, after 100 ms"),
        ):
            axes.plot(curve.level_db, rate, color=colour, label=label)
        axes.axhline(curve.at_rest, color=QUIET, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.text(
            curve.level_db[-1],
            curve.at_rest,
            f"a fibre at rest, {curve.at_rest:.1f}/s",
            ha="right",
            va="bottom",
            fontsize=8,
            color=QUIET,
        )
        axes.set_ylim(bottom=0)
        axes.set_xlim(curve.level_db[0], curve.level_db[-1])
        axes.xaxis.set_major_locator(MultipleLocator(10))
        axes.set_xlabel("Level of the tone (dB re the level of recordings)")
        axes.set_ylabel("Spikes per second")
        axes.legend(loc="upper left")
    return figure


def _kilohertz(axis: Any) -> None:
    axis.set_major_locator(FixedLocator(_KHZ))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")
