"""Spike patterns to learn: files of spike times, bitmaps, and equivalents drawn from a seed.

A .ras file has a line for each spike: its time in s and the unit's id, as the authors of SuperSpike ship them
(github.com/fzenke/ssbm). Lines that begin with # are comments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from snnbench.errors import SnnbenchError

if TYPE_CHECKING:
    from torch import Tensor

    from snnbench.studies.study import Data

MOST_ROWS, MOST_COLUMNS = 400, 1000
"""Largest bitmap: a row is an output unit, a column 10 ms."""
COLUMN_S = 10e-3
INK_BELOW = 250
"""A pixel whose mean grey is below this, of 255, is a spike."""

Ids = Literal["zero-based", "one-based"]
Order = Literal["sorted", "any"]


@dataclass(frozen=True)
class Spikes:
    """Times in s and unit ids of a pattern that repeats."""

    times_s: NDArray[np.float64]
    units: NDArray[np.int64]
    size: int
    """Number of units."""
    loop_s: float

    def dense(self, dt_s: float) -> Tensor:
        """(time, 1, unit) uint8, one loop."""
        import torch

        steps = round(self.loop_s / dt_s)
        out = np.zeros((steps, 1, self.size), np.uint8)
        at = np.minimum(np.floor(self.times_s / dt_s + 1e-6).astype(int), steps - 1)
        out[at, 0, self.units] = 1
        return torch.from_numpy(out)


def read_ras(
    path: Path, size: int, loop_s: float, *, ids: Ids = "zero-based", order: Order = "sorted"
) -> Spikes:
    """Spikes of a .ras file.

    Parameters
    ----------
    path : the file.
    size : number of units; ids are 0 to size - 1, or 1 to size where `ids` is one-based.
    loop_s : length of the pattern; later spikes are refused.
    order : `sorted` refuses times that go back; `any` sorts them.

    Raises
    ------
    SnnbenchError
        The file cannot be read, has no spikes, an id out of range, a time outside the loop or out of order;
        names the file, the line and what to do.
    """
    times, units = _parse_ras(path)
    if not len(times):
        raise SnnbenchError(f"{path}: no spikes in it; a target needs some")
    first = 1 if ids == "one-based" else 0
    wrong = np.flatnonzero((units < first) | (units >= size + first))
    if len(wrong):
        hint = "; one-based ids are read with target_ids=one-based" if units.max() == size else ""
        raise SnnbenchError(
            f"{path}: spike {wrong[0] + 1} has the id {units[wrong[0]]}, outside {first} to "
            f"{size - 1 + first}{hint}"
        )
    outside = np.flatnonzero((times < 0) | (times > loop_s) | ~np.isfinite(times))
    if len(outside):
        raise SnnbenchError(
            f"{path}: spike {outside[0] + 1} is at {times[outside[0]]:g} s, outside the loop of {loop_s:g} s"
        )
    back = np.flatnonzero(np.diff(times) < 0)
    if len(back) and order == "sorted":
        raise SnnbenchError(
            f"{path}: times go back at spike {back[0] + 2}, {times[back[0]]:g} s to "
            f"{times[back[0] + 1]:g} s; they are sorted for you with target_order=any"
        )
    by_time = np.argsort(times, kind="stable")
    return Spikes(times[by_time], units[by_time] - first, size, loop_s)


def _parse_ras(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SnnbenchError(f"{path}: cannot read spike times ({error})") from None
    times, units = [], []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            time, unit = words
            times.append(float(time))
            units.append(int(unit))
        except ValueError:
            raise SnnbenchError(
                f"{path}: line {number} is {line[:40]!r}; a line has a time in s and a unit's id"
            ) from None
    return np.array(times), np.array(units, np.int64)


def read_bitmap(path: Path) -> NDArray[np.bool_]:
    """Where a picture has ink, (row, column), the first row on top.

    Raises
    ------
    SnnbenchError
        It is no picture, too large, or has no ink.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS, before = 10_000_000, Image.MAX_IMAGE_PIXELS
    try:
        with Image.open(path) as image:
            columns, rows = image.size
            if rows > MOST_ROWS or columns > MOST_COLUMNS:
                raise SnnbenchError(
                    f"{path}: {columns} x {rows} pixels; a row is a unit and a column 10 ms, so take at"
                    f" most {MOST_COLUMNS} x {MOST_ROWS}: scale it down"
                )
            seen = image.convert("RGBA")
            on_white = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
            grey = np.asarray(on_white.convert("RGB"), float).mean(-1)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SnnbenchError(f"{path}: cannot be read as a picture ({error})") from None
    finally:
        Image.MAX_IMAGE_PIXELS = before
    ink = grey < INK_BELOW
    if not ink.any():
        raise SnnbenchError(
            f"{path}: no pixel is darker than {INK_BELOW} of 255: no spikes to learn"
        )
    return ink


def drawn_bitmap(rows: int, columns: int) -> NDArray[np.bool_]:
    """A picture of our own, for machines without one: two rings and a wave, as if spikes had passed."""
    y, x = np.mgrid[0:rows, 0:columns]
    u, v = x / columns, y / rows
    wide = columns / rows
    ring = [abs(np.hypot((u - c) * wide, v - 0.38) - 0.22) < 0.018 for c in (0.3, 0.7)]
    wave = abs(v - 0.78 - 0.09 * np.sin(u * 6 * np.pi)) < 0.018
    return ring[0] | ring[1] | wave


def bitmap_spikes(ink: NDArray[np.bool_], seed: int) -> Spikes:
    """A picture as spikes: the bottom row is unit 0, a column 10 ms, and each pixel one spike within it."""
    rows, columns = ink.shape
    row, column = np.nonzero(ink)
    jitter = np.random.default_rng([seed, 1]).uniform(0, COLUMN_S, len(row))
    times = column * COLUMN_S + jitter
    by_time = np.argsort(times, kind="stable")
    return Spikes(times[by_time], (rows - 1 - row)[by_time], rows, columns * COLUMN_S)


def poisson_spikes(size: int, rate_hz: float, loop_s: float, seed: int) -> Spikes:
    """Frozen Poisson spikes: the same at every repetition."""
    rng = np.random.default_rng([seed, 2])
    count = rng.poisson(size * rate_hz * loop_s)
    times = np.sort(rng.uniform(0, loop_s, count))
    return Spikes(times, rng.integers(0, size, count), size, loop_s)


def equidistant_spikes(count: int, loop_s: float) -> Spikes:
    """`count` spikes of one unit that divide the loop evenly: 83, 166, 249 ms and so on for 5 in 0.5 s."""
    gap_s = math.floor(1e3 * loop_s / (count + 1)) * 1e-3
    times = np.arange(1, count + 1, dtype=np.float64) * gap_s
    return Spikes(times, np.zeros(count, np.int64), 1, loop_s)


@dataclass(frozen=True)
class Pattern:
    """What goes in and what should come out, one loop, and where it is from."""

    inputs: Tensor
    """(time, 1, unit) uint8."""
    targets: Tensor
    source: str


def load_pattern(described: Mapping[str, Any], dt_s: float, seed: int) -> Pattern:
    """The pattern of a description that JSON can hold, as the functions below make them.

    `seed` is used where the description says that each seed draws its own.
    """
    inputs = _spikes(described["inputs"], seed)
    targets = _spikes(described["targets"], seed)
    return Pattern(inputs.dense(dt_s), targets.dense(dt_s), described["source"])


def _spikes(how: Mapping[str, Any], seed: int) -> Spikes:
    arguments = {key: value for key, value in how.items() if key != "kind"}
    if arguments.get("seed", 0) is None:
        arguments["seed"] = seed
    if how["kind"] == "ras":
        return read_ras(Path(arguments.pop("path")), **arguments)
    if how["kind"] == "bitmap":
        return bitmap_spikes(read_bitmap(Path(arguments["path"])), arguments["seed"])
    if how["kind"] == "drawing":
        ink = drawn_bitmap(arguments["rows"], arguments["columns"])
        return bitmap_spikes(ink, arguments["seed"])
    if how["kind"] == "poisson":
        return poisson_spikes(**arguments)
    return equidistant_spikes(**arguments)


def five_spikes(data: Data) -> dict[str, Any]:
    """100 Poisson inputs and five equidistant target spikes in 0.5 s: the authors', or one for each seed."""
    loop_s, size = 0.5, 100
    if folder := data.find("ssbm/poisson"):
        return {
            "inputs": {
                "kind": "ras",
                "path": str(folder / "input.ras"),
                "size": size,
                "loop_s": loop_s,
            },
            "targets": {
                "kind": "ras",
                "path": str(folder / "target.ras"),
                "size": 1,
                "loop_s": loop_s,
            },
            "source": "ssbm, poisson",
        }
    return {
        "inputs": {
            "kind": "poisson",
            "size": size,
            "rate_hz": 5.0,
            "loop_s": loop_s,
            "seed": None,
        },
        "targets": {"kind": "equidistant", "count": 5, "loop_s": loop_s},
        "source": "generated: Poisson inputs of 5 Hz, another draw for each seed",
    }


def logo(data: Data) -> dict[str, Any]:
    """3.5 s of 100 inputs and 100 outputs: the Auryn logo of the authors, or a drawing of ours."""
    if folder := data.find("ssbm/auryn"):
        return {
            "inputs": {
                "kind": "ras",
                "path": str(folder / "input.ras"),
                "size": 100,
                "loop_s": 3.5,
            },
            # as published: sorted by column, not by time
            "targets": {
                "kind": "ras",
                "path": str(folder / "target.ras"),
                "size": 100,
                "loop_s": 3.5,
                "order": "any",
            },
            "source": "ssbm, auryn",
        }
    return {
        "inputs": {"kind": "poisson", "size": 100, "rate_hz": 5.0, "loop_s": 3.5, "seed": 0},
        "targets": {"kind": "drawing", "rows": 100, "columns": 350, "seed": 0},
        "source": "generated: a drawing of two rings and a wave",
    }
