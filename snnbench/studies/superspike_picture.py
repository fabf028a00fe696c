"""A bitmap becomes target spikes, and a network learns to draw it (the authors' picture demo; the fly fork).

200 inputs of frozen noise, 256 hidden cells, one output for each row of the picture; a column is 10 ms. After
20 s without learning come 50 blocks of 20 s, with a tenth of the rate from block 20 on. Hidden cells have
random feedback and the heterosynaptic term with rho = 1, as the authors' program sets it.

With the published target of a fly (bayarovici/fly_superspike) the curve is compared with the one that was
published with it. That target has ids from 1 and unsorted times, which is said here once, not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from snnbench.errors import SnnbenchError
from snnbench.plots import BLUE, GREEN, INK, ORANGE, QUIET, titled_figure
from snnbench.studies import raster_plots
from snnbench.studies.pattern_learning import learn, task
from snnbench.studies.patterns import COLUMN_S, read_bitmap
from snnbench.studies.study import Data, Job, Study, Verdict

DT_S, BLOCK_S = 1e-4, 20.0
PUBLISHED = "fly/learning-curve-random-feedback.txt"
BAND = 0.2
"""Relative half-width around the published curve; declared before the first whole run."""
BLOCKS_INSIDE, OF_BLOCKS = 45, 50
TALK_S = (0.0, 31.44, 41.92, 744.08)
"""Training times of the talk's film slides."""
APART_S = 4.5
"""Between two loops that are kept: until one begins, and its length."""


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    seconds: float = 980.0
    """Of learning; 49 blocks come after the published curve's first point."""
    rate_mv: float = 1.0
    hidden: int = 256
    inputs: int = 200
    feedback: str = "random"
    rho: float = 1.0
    image: str = ""
    """A picture; dark pixels are spikes. Without one, the published fly, or a drawing of ours."""
    target: str = ""
    """A .ras file instead of a picture; with `target_rows` units and a loop of `target_loop_s`."""
    target_rows: int = 200
    target_loop_s: float = 1.89
    target_ids: str = "zero-based"
    """Or one-based."""
    target_order: str = "sorted"
    """Or any: times may go back, and are sorted."""
    film_frames: int = 40


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One a seed."""
    pattern, published = _pattern(p, data)
    frames = _frame_times(p)
    return [
        Job(
            f"seed-{seed}",
            learn,
            {
                "published": published,
                **task(
                    pattern,
                    seeds=[seed],
                    hidden=(p.hidden,),
                    seconds=p.seconds,
                    feedback=p.feedback,
                    rate_mv=p.rate_mv,
                    rho=p.rho,
                    burn_in_s=20.0,
                    cut_after_s=20 * BLOCK_S,
                    every_s=BLOCK_S,
                    frames_s=frames if seed == seeds[0] else (),
                ),
            },
        )
        for seed in seeds
    ]


def _frame_times(p: Parameters) -> list[float]:
    """The talk's times, and others in growing distance; each loop ends before the next is due."""
    latest = max(p.seconds - APART_S, 0.0)
    frames = [t for t in TALK_S if t <= latest]
    for t in np.geomspace(APART_S, max(latest, APART_S), p.film_frames).round(2).tolist():
        if t <= latest and all(abs(t - other) >= APART_S for other in frames):
            frames.append(t)
    return sorted(frames)


def _pattern(p: Parameters, data: Data) -> tuple[dict[str, Any], str]:
    """The pattern's description and the published curve's file, or "" where it is none of its target."""
    if p.image and p.target:
        raise SnnbenchError("image and target are both given; take one of them")
    for key, value, known in (
        ("target_ids", p.target_ids, ("zero-based", "one-based")),
        ("target_order", p.target_order, ("sorted", "any")),
    ):
        if value not in known:
            raise SnnbenchError(f"{key} is {value!r}; take {' or '.join(known)}")
    ras = {"kind": "ras", "size": p.target_rows, "loop_s": p.target_loop_s}
    published, source = "", ""
    if p.target:
        told = {"ids": p.target_ids, "order": p.target_order}
        targets = {**ras, "path": str(Path(p.target).resolve()), **told}
        source = Path(p.target).name
    elif p.image:
        rows, columns = read_bitmap(Path(p.image)).shape
        ras["loop_s"] = columns * COLUMN_S
        targets = {"kind": "bitmap", "path": p.image, "seed": 0}
        source = f"{Path(p.image).name}, {columns} x {rows} pixels"
    elif fly := data.find("fly/target.ras"):
        targets = {**ras, "path": str(fly), "ids": "one-based", "order": "any"}
        published = str(data.find(PUBLISHED) or "")
        source = "fly_superspike, target of a fly"
    else:
        rows, columns = p.target_rows, round(p.target_loop_s / COLUMN_S)
        targets = {"kind": "drawing", "rows": rows, "columns": columns, "seed": 0}
        source = "generated: a drawing of two rings and a wave"
    own = not p.image and not p.target and data.find("fly/input.ras")
    if own and p.inputs == 200:
        inputs: dict[str, Any] = {
            "kind": "ras", "path": str(own), "size": 200, "loop_s": ras["loop_s"]
        }  # fmt: skip
    else:
        inputs = {
            "kind": "poisson", "size": p.inputs, "rate_hz": 5.0, "loop_s": ras["loop_s"], "seed": 0
        }  # fmt: skip
    return {"inputs": inputs, "targets": targets, "source": source}, published


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Curves beside the published one; rates; the loops that are drawn."""
    first = results[0][1]
    metric = [c for _, r in results for c in r["metric"]]
    mean = np.mean(metric, axis=0)
    numbers: dict[str, Any] = {
        "data": first["source"],
        "times_s": first["times_s"],
        "metric": metric,
        "metric_mean": mean.tolist(),
        "hidden_hz": float(np.mean([r["rates_hz"][0] for _, r in results])),
        "output_hz": float(np.mean([r["rates_hz"][1] for _, r in results])),
        "raster_correlation": raster_correlation(first["frames"], first["targets"]),
        "hits": float(np.mean([r["hits"] for _, r in results])),
        "published": [],
        "_frames": first["frames"],
        "_targets": first["targets"],
        "_inputs": first["inputs"],
    }
    if path := results[0][0].arguments["published"]:
        published = np.loadtxt(path, usecols=(0, 1), comments="#", converters=None, ndmin=2)
        n = min(len(published), len(mean))
        numbers["published"] = published[:, 1].tolist()
        numbers["ratio"] = (mean[:n] / published[:n, 1]).tolist()
        numbers["blocks_inside"] = int(np.sum(np.abs(mean[:n] / published[:n, 1] - 1) <= BAND))
    return numbers


def raster_correlation(
    frames: Sequence[dict[str, Any]], targets: Sequence[Sequence[int]]
) -> list[list[float]]:
    """(training time, correlation) of the output's raster with the target's, counted in 10 ms by unit."""
    if not frames:
        return []
    columns = round(COLUMN_S / DT_S)
    rows = 1 + max(unit for _, unit in targets)
    width = 1 + max(t for t, _ in targets) // columns

    def picture(events: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        counts = np.zeros((rows, width))
        for t, unit in events:
            if t // columns < width and unit < rows:
                counts[unit, t // columns] += 1
        return counts.ravel()

    wanted = picture(targets)
    found = [(f["time_s"], picture(f["layers"][-1])) for f in frames]
    return [[t, float(np.corrcoef(x, wanted)[0, 1]) if x.any() else 0.0] for t, x in found]


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """Against the published curve, where there is one for this target."""
    metric = numbers["metric_mean"]
    ran = f"Distance {metric[0]:.1f} before learning, {metric[-1]:.1f} at the end"
    alike = numbers["raster_correlation"]
    if alike:
        ran += f"; the raster's correlation with the target goes from {alike[0][1]:.2f} to {alike[-1][1]:.2f}"
    if not numbers["published"]:
        return Verdict(None, f"{ran}; no published curve for this target ({numbers['data']}).")
    last = float(np.mean(metric[-10:]))
    published_last = float(np.mean(numbers["published"][-10:]))
    inside = numbers["blocks_inside"]
    return Verdict(
        inside >= BLOCKS_INSIDE and abs(last / published_last - 1) <= BAND,
        f"Blocks 0, 1, 2: {metric[0]:.1f}, {metric[1]:.1f}, {metric[2]:.1f} (published 163.9, 108.4, 67.9);"
        f" last ten {last:.1f} ({published_last:.1f}); {inside} of {OF_BLOCKS} blocks within {BAND:.0%}."
        f" {ran}.",
    )


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """The curve beside the published one, and the talk's four rasters."""
    figure = titled_figure(
        6.8, 3.8, "Learning to draw with spikes", numbers["data"], f"{p.feedback} feedback"
    )
    axes = figure.subplots()
    if numbers["published"]:
        x = np.arange(len(numbers["published"])) * BLOCK_S
        y = np.asarray(numbers["published"])
        axes.fill_between(x, y * (1 - BAND), y * (1 + BAND), color=QUIET, alpha=0.15, lw=0,
                          label=f"published ± {BAND:.0%}")  # fmt: skip
        axes.plot(x, y, "o", ms=3, color=INK, label="published, one run")
    for k, curve in enumerate(numbers["metric"]):
        axes.plot(
            numbers["times_s"], curve, color=BLUE, lw=1, label=None if k else "ours, each seed"
        )
    axes.set_xlabel("training (s of biological time)")
    axes.set_ylabel("van Rossum distance")
    raster_plots.plain_log(axes)
    axes.legend()
    wanted = [f for f in numbers["_frames"] if f["wanted_s"] in TALK_S]
    return {"": figure, "rasters": _rasters(p, numbers, wanted)} if wanted else {"": figure}


def _rasters(p: Parameters, numbers: dict[str, Any], frames: Sequence[dict[str, Any]]) -> Figure:
    figure = titled_figure(
        2.7 * len(frames) + 0.6,
        6.6,
        "Input, hidden and output spikes of one loop while learning",
        numbers["data"],
        "bottom: input; middle: hidden cells; top: output",
    )
    grid = figure.subplots(
        3, len(frames), sharex=True, sharey="row", squeeze=False, height_ratios=(1, 0.8, 0.5)
    )
    for column, frame in zip(grid.T, frames, strict=True):
        _draw_frame(column, p, numbers, frame)
    for axes, name in zip(grid[:, 0], ("output", "hidden", "input"), strict=True):
        axes.set_ylabel(f"{name} unit")
    return figure


def _draw_frame(column: Any, p: Parameters, numbers: dict[str, Any], frame: dict[str, Any]) -> None:
    hidden, output = frame["layers"]
    for axes, events, colour in zip(
        column, (output, hidden, numbers["_inputs"]), (INK, GREEN, QUIET), strict=True
    ):
        raster_plots.raster(axes, events, DT_S, colour, size=3.0)
        axes.margins(0.01)
    column[0].set_title(f"{frame['time_s']:.2f} s   distance {frame['metric']:.0f}")
    column[-1].set_xlabel("time in the loop (s)")


def films(p: Parameters, numbers: dict[str, Any], folder: Path) -> list[Path]:
    """A GIF of one loop's spikes as training goes on; the first and the last picture stay longer."""
    import io

    from PIL import Image

    from snnbench.paths import write_bytes

    frames = numbers["_frames"]
    if not frames:
        return []
    pictures = [_film_picture(p, numbers, frame) for frame in frames]
    times_ms = [1500, *[350] * (len(pictures) - 2), 3000][: len(pictures)]
    buffer = io.BytesIO()
    first, *others = [x.convert("P", palette=Image.Palette.ADAPTIVE, colors=16) for x in pictures]
    first.save(
        buffer, "GIF", save_all=True, append_images=others, duration=times_ms, loop=0, optimize=True
    )
    path = folder / "superspike-picture.gif"
    write_bytes(path, buffer.getvalue())
    return [path]


def _film_picture(p: Parameters, numbers: dict[str, Any], frame: dict[str, Any]) -> Any:
    import io

    import matplotlib
    from PIL import Image

    from snnbench.plots import STYLE

    with matplotlib.rc_context(STYLE):
        figure = titled_figure(
            5.2, 6.6, "A network learns to draw with spikes", numbers["data"], ""
        )
        grid = figure.subplots(3, 1, sharex=True, height_ratios=(1.2, 0.8, 0.5))
        _draw_frame(grid, p, numbers, frame)
        for axes, name in zip(grid, ("output", "hidden", "input"), strict=True):
            axes.set_ylabel(f"{name} unit")
        grid[0].set_title(f"after {frame['time_s']:.0f} s of training", color=ORANGE)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
    return Image.open(buffer).convert("RGB")


STUDY = Study(
    name="superspike-picture",
    shows="a network learns to draw a bitmap with spikes; the published fly's learning curve",
    source="Zenke & Ganguli 2018, fig. 7, and the film of its program; fly_superspike (2019); talk, film",
    criterion="with the published fly and random feedback the mean over seeds lies within 20 % of the"
    " published curve in at least 45 of its 50 blocks, and the last ten blocks' mean within 20 % of theirs",
    parameters=Parameters(),
    seeds=2,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    films=films,
    trial={"seconds": 10.0, "hidden": 32, "film_frames": 3},
)
