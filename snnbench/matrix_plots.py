"""Weights and delays as images: who hears whom, before and after training.

Rows are the units that listen, columns those that speak, in an order in which a reader sees something:

- into a hidden layer: by the place among the inputs whose weights excite the unit most, so that a layer
  that covers its input shows a diagonal. An order by what is largest finds a thin one in noise, too;
- within a layer: by the membranes' time constants where units have their own, else as above;
- into the readout: units by the class for which they vote most;
- delays: units by the mean of their delays, each counted as much as its weight is large.

Before and after training have one order, that of the trained network, and one scale of colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from snnbench.plots import BLUE, ORANGE, STYLE, titled_figure
from snnbench.snapshot import Snapshot

_CLASSES_NAMED = 40
_SMOOTHED_OVER = 1 / 16  # of the inputs, to find the place that a unit hears best
_SATURATED = 0.995  # this share of the weights is within the scale of colours
_SIGNED = (BLUE, "white", ORANGE)  # inhibits, does nothing, excites


class _Side(NamedTuple):
    """One side of a matrix."""

    label: str
    order: NDArray[np.int64]
    """Index of the first row or column, the second, ..."""
    names: Sequence[str] = ()
    """Of all in their order, where they are written."""


def weight_matrices(
    before: Snapshot,
    after: Snapshot,
    classes: Sequence[str],
    *,
    title: str = "Weights",
    note: str = "",
) -> dict[str, Figure]:
    """Every weight matrix as an image, by what it leads from and to; none without hidden layers.

    Parameters
    ----------
    before, after
        Snapshots of one network.
    classes
        Names of all classes.
    title, note
        Headline and small print.
    """
    figures: dict[str, Figure] = {}

    def draw(connection: str, rows: _Side, columns: _Side, order: str) -> None:
        figures[connection] = _matrix_pair(
            before.matrices[connection],
            after.matrices[connection],
            rows,
            columns,
            title=title,
            subtitle=f"Weights {connection}; units by {order}",
            note=note,
        )

    if not after.rates_hz:
        return figures
    below = "input"
    n_inputs = _into(after, "input to hidden1")[0][1].shape[1]
    columns = _Side("Input channel", np.arange(n_inputs))
    for layer in after.rates_hz:
        leading = _into(after, f"{below} to {layer}")
        # of a delay line, over all taps
        heard = best_input_order(np.sum([w for _, w in leading], axis=0)[:, columns.order])
        place = (
            "the channel they hear best" if below == "input" else f"what of {below} they hear best"
        )
        rows = _Side(f"{layer} unit", heard)
        for connection, _ in leading:
            draw(connection, rows, columns, place)
        if (within := f"within {layer}") in after.matrices:
            tau = after.constants.get(layer, {}).get("tau_mem_s")
            order = heard if tau is None else np.argsort(tau.values, kind="stable")
            to, of = (_Side(f"{side} {layer} unit", order) for side in ("To", "From"))
            draw(within, to, of, place if tau is None else "tau_mem, short to long")
        below, columns = layer, rows._replace(label=f"{layer} unit, in the order of its own matrix")
    order = vote_order(after.matrices[f"{below} to readout"])
    named = classes if len(classes) <= _CLASSES_NAMED else ()
    rows = _Side("Class", np.arange(len(classes)), named)
    voters = _Side(f"{below} unit", order)
    draw(f"{below} to readout", rows, voters, "the class they vote for most")
    return figures


def _into(snapshot: Snapshot, connection: str) -> list[tuple[str, NDArray[np.float32]]]:
    """The matrices of a connection, more than one where it is a delay line, with their names."""
    return [
        (name, w) for name, w in snapshot.matrices.items() if name.partition(", ")[0] == connection
    ]


def delay_matrix(
    before: Snapshot, after: Snapshot, *, title: str = "Delays", note: str = ""
) -> Figure:
    """Delays of the first connection that has them, in ms, as an image: a row for each unit."""
    connection, new = next(iter(after.delays_s.items()))
    weights = after.matrices.get(connection)
    order = delay_order(new, np.ones_like(new) if weights is None else weights)
    below, _, layer = connection.partition(" to ")
    rows = _Side(f"{layer} unit", order)
    listened_to = "Input channel" if below == "input" else f"{below} unit"
    columns = _Side(listened_to, np.arange(new.shape[1]))
    old = before.delays_s[connection]
    return _matrix_pair(
        1e3 * old,
        1e3 * new,
        rows,
        columns,
        title=title,
        subtitle=f"Delays {connection}; units by mean delay, each by the size of its weight, short to long",
        note=note,
        unit="ms",
    )


def best_input_order(weights: NDArray[np.floating]) -> NDArray[np.int64]:
    """Units in the order of the place among their inputs whose weights excite them most.

    `weights` has shape (unit, input). Neighbours are averaged first, so that one large weight among small
    ones is no place of its own.
    """
    width = max(1, round(weights.shape[1] * _SMOOTHED_OVER))
    window = np.hanning(width + 2)[1:-1]
    smooth = [np.convolve(row, window / window.sum(), mode="same") for row in weights]
    return np.argsort(np.argmax(smooth, axis=1), kind="stable")


def vote_order(weights: NDArray[np.floating]) -> NDArray[np.int64]:
    """Units by the class with their largest weight, and within a class the strongest first.

    `weights` has shape (class, unit).
    """
    return np.lexsort((-weights.max(axis=0), weights.argmax(axis=0)))


def delay_order(delays: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.int64]:
    """Units by their mean delay over inputs, each counted as much as its weight is large; short ones first.

    Both have shape (unit, input).
    """
    size = np.abs(weights)
    total = size.sum(axis=1)
    # a unit that hears nothing has a mean all the same
    size = np.where(total[:, None] > 0, size, 1.0)
    return np.argsort((delays * size).sum(axis=1) / size.sum(axis=1), kind="stable")


def _matrix_pair(
    old: NDArray[np.floating],
    new: NDArray[np.floating],
    rows: _Side,
    columns: _Side,
    *,
    title: str,
    subtitle: str,
    note: str,
    unit: str = "",
) -> Figure:
    """Before on the left, after on the right. With a `unit` colours begin at zero, else they have a sign."""
    colours = "Blues" if unit else LinearSegmentedColormap.from_list("signed", _SIGNED)
    both = np.abs(np.stack([old, new]))
    top = float(np.quantile(both, _SATURATED)) or float(both.max()) or 1.0
    height = float(np.clip(0.024 * len(rows.order), 2.2, 4.5))
    if rows.names:
        height = max(height, 0.17 * len(rows.names))
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(9.0, height + 1.3, title, subtitle, note)
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, when, matrix in zip(panels, ("Before", "After"), (old, new), strict=True):
            image = axes.imshow(
                matrix[np.ix_(rows.order, columns.order)],
                cmap=colours,
                vmin=0.0 if unit else -top,
                vmax=top,
                aspect="auto",
            )
            axes.set_title(f"{when} training")
            axes.spines[:].set_visible(False)
            axes.tick_params(length=2)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlabel(columns.label)
        if rows.names:
            panels[0].set_yticks(range(len(rows.names)), rows.names)
        else:
            panels[0].yaxis.set_major_locator(MaxNLocator(6, integer=True))
        panels[0].set_ylabel(rows.label)
        bar = figure.colorbar(
            image, ax=panels, shrink=0.8, aspect=25, pad=0.01, extend="max" if unit else "both"
        )
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        bar.set_label(f"Delay ({unit})" if unit else "Weight")
    return figure
