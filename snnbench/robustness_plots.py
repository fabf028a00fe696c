"""Accuracy on changed test samples, a panel for every corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from snnbench.corruptions import CORRUPTIONS, VERSION
from snnbench.metrics import summarise
from snnbench.plots import BLUE, GREEN, INK, ORANGE, PINK, QUIET, SKY, STYLE, titled_figure
from snnbench.robustness import Robustness
from snnbench.spec import TaskSpec

_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY)
_STYLES: tuple[str, ...] = ("-", "--", ":")  # of the sixth model, the eleventh
_CLEAN = (0, (4, 3))
_CHANCE = (0, (1, 2))
_NAMES_SHOWN = 9
"""More models than this do not fit beside the panels, and could hardly be told apart in them."""


def robustness_curves(
    models: Mapping[str, Sequence[Robustness]],
    task: TaskSpec,
    *,
    title: str = "Robustness",
    note: str = "",
) -> Figure:
    """Accuracy against level, one curve a model, with its clean accuracy and the chance level.

    Levels stand at equal distances, since each is about twice the one before.

    Parameters
    ----------
    models
        By name, the complete audits of a model's trainings (seeds).
    task
        Whose terms the levels are given in.
    title, note
        Headline and small print.
    """
    several = max(map(len, models.values())) > 1
    spread = "; mean over seeds, bands: standard deviation" if several else ""
    subtitle = f"Accuracy on changed test samples ({VERSION}){spread}"
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(10.2, 5.0, title, subtitle, note)
        panels = figure.subplots(2, 4, sharey=True).ravel()
        for axes, (name, corruption) in zip(panels, CORRUPTIONS.items(), strict=False):
            levels = (0.0, *corruption.levels)
            for (colour, style), results in zip(_looks(len(models)), models.values(), strict=True):
                _draw(axes, [list(r.accuracies(name).values()) for r in results], colour, style)
            axes.axhline(_chance(models), color=QUIET, linewidth=1, linestyle=_CHANCE)
            axes.set_title(corruption.title)
            axes.set_xlabel(corruption.axis)
            axes.set_xticks(
                range(len(levels)), [f"{corruption.in_terms(x, task):.3g}" for x in levels]
            )
            axes.set_xlim(-0.2, len(levels) - 0.8)
            axes.grid(axis="y")
        panels[0].set_ylim(bottom=0)
        panels[0].yaxis.set_major_formatter(lambda fraction, _: f"{100 * fraction:g}%")
        _write_names(panels[-1], models)
    return figure


def _draw(axes: Axes, runs: Sequence[Sequence[float]], colour: str, style: str) -> None:
    accuracy: NDArray[np.float64] = np.array(runs)  # (training, level)
    mean = accuracy.mean(axis=0)
    x = np.arange(len(mean))
    axes.axhline(mean[0], color=colour, linewidth=0.8, linestyle=_CLEAN)
    axes.plot(x, mean, style, color=colour, marker="o", markersize=3.5)
    if len(runs) > 1:
        sd = accuracy.std(axis=0, ddof=1)
        axes.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)


def _write_names(axes: Axes, models: Mapping[str, Sequence[Robustness]]) -> None:
    """The last panel: whose curve is whose, and what it comes to."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    shown = list(zip(_looks(len(models)), models.items(), strict=True))
    step = min(0.2, 0.8 / (len(shown) + 1))
    for i, ((colour, style), (name, results)) in enumerate(shown[:_NAMES_SHOWN]):
        y = 1 - i * step
        axes.plot([0, 0.11], [y, y], style, color=colour, transform=axes.transAxes, clip_on=False)
        axes.text(0.15, y, name, transform=axes.transAxes, va="center", color=INK)
        axes.text(
            0.15,
            y - 0.4 * step,
            result_text(results),
            transform=axes.transAxes,
            va="center",
            fontsize=7.5,
            color=QUIET,
        )
    for y, line, text in ((0.1, _CLEAN, "clean accuracy"), (0.0, _CHANCE, "chance")):
        axes.plot(
            [0, 0.11],
            [y, y],
            color=QUIET,
            linewidth=1,
            linestyle=line,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(0.15, y, text, transform=axes.transAxes, va="center", fontsize=7.5, color=QUIET)


def result_text(results: Sequence[Robustness]) -> str:
    """Clean accuracy and the one number of a model's trainings, in words."""
    clean = summarise([r.clean.accuracy for r in results])
    values = [r.robustness for r in results]
    numbers = [v for v in values if v is not None]
    told = "not told" if len(numbers) < len(values) else _spread(numbers)
    return f"clean {100 * clean.mean:.1f}%, robustness {told}"


def _spread(values: Sequence[float]) -> str:
    summary = summarise(values)
    return f"{summary.mean:.3f}" + (f" ± {summary.sd:.3f}" if len(values) > 1 else "")


def _looks(n: int) -> list[tuple[str, str]]:
    """Colours and line styles of n models."""
    return [(_COLOURS[i % 5], _STYLES[i // 5 % 3]) for i in range(n)]


def _chance(models: Mapping[str, Sequence[Robustness]]) -> float:
    return next(iter(models.values()))[0].chance
