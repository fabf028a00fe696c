"""Accuracy on changed test samples, a panel for every corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from snnbench.corruption_spec import CORRUPTIONS, VERSION
from snnbench.metrics import summarise
from snnbench.plots import BLUE, GREEN, INK, ORANGE, PINK, QUIET, SKY, STYLE, titled_figure
from snnbench.robustness import Robustness
from snnbench.spec import TaskSpec

_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY)
_STYLES: tuple[str, ...] = ("-", "--", ":")  # of the sixth model, the eleventh
_CLEAN = (0, (4, 3))
_CHANCE = (0, (1, 2))
_IN_TWO_LINES = 4
_NAMES_SHOWN = 8
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
        panels[-1].remove()  # it shares the others' axis
        _write_names(figure.add_subplot(2, 4, 8), models)
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
    axes.set_ylim(0, 1)
    shown = list(zip(_looks(len(models)), models.items(), strict=True))[:_NAMES_SHOWN]
    in_two_lines = len(shown) <= _IN_TWO_LINES
    y, step = 0.98, 0.2 if in_two_lines else 0.1
    for (colour, style), (name, results) in shown:
        more = len(models) - len(shown) if name == shown[-1][1][0] else 0
        clean, number = _clean_text(results), robustness_text(results)
        _key(axes, y, style, colour, 1.6)
        if in_two_lines:
            _write(axes, y, name, size=9, colour=INK)
            _write(axes, y - 0.09, f"clean {clean}, robustness {number}")
        else:
            rest = f"; {more} more" if more else ""
            _write(axes, y, f"{name}  {clean}, {number}{rest}", colour=INK)
        y -= step
    for y, line, text in ((0.1, _CLEAN, "clean accuracy"), (0.0, _CHANCE, "chance")):
        _key(axes, y, line, QUIET, 1)
        _write(axes, y, text)


def _key(axes: Axes, y: float, style: Any, colour: str, width: float) -> None:
    axes.plot([0, 0.11], [y, y], color=colour, linestyle=style, linewidth=width, clip_on=False)


def _write(axes: Axes, y: float, text: str, size: float = 7.5, colour: str = QUIET) -> None:
    axes.text(0.14, y, text, va="center", fontsize=size, color=colour)


def _clean_text(results: Sequence[Robustness]) -> str:
    return f"{100 * summarise([r.clean.accuracy for r in results]).mean:.1f}%"


def robustness_text(results: Sequence[Robustness]) -> str:
    """The one number of a model's trainings, mean and standard deviation; a dash where there is none."""
    values = [r.robustness for r in results]
    told = [v for v in values if v is not None]
    if len(told) < len(values):
        return "–"
    summary = summarise(told)
    return f"{summary.mean:.2f}" + (f" ± {summary.sd:.2f}" if len(told) > 1 else "")


def _looks(n: int) -> list[tuple[str, str]]:
    """Colours and line styles of n models."""
    return [(_COLOURS[i % 5], _STYLES[i // 5 % 3]) for i in range(n)]


def _chance(models: Mapping[str, Sequence[Robustness]]) -> float:
    return next(iter(models.values()))[0].chance
