"""`snnbench quickstart`: the main job from speech to a verified board, on data made on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import answer, json_option, note
from snnbench.cli.run import (
    device_option,
    opened_data,
    run_seeds,
    runs_folder,
    spec_for,
)
from snnbench.errors import SnnbenchError

if TYPE_CHECKING:
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.leaderboards.table import Table
    from snnbench.record import RunRecord

TASK = "digits-synthetic"
MODELS = ("ff-lif", "rec-lif")


@click.command("quickstart")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for pictures and the page; default: SNNBENCH_HOME/quickstart.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@device_option
@json_option
def quickstart_command(out: Path | None, seeds: int, device: str, as_json: bool) -> None:
    """The whole path on the embedded data: speech, spikes, networks, board, pictures, page.

    The data are synthetic speech, made on this machine. Takes a few minutes on two cores and may be
    stopped and called again.

    \b
    Example: snnbench quickstart --out quickstart
    """
    quickstart(out, seeds=seeds, device=device, as_json=as_json)


def quickstart(out: Path | None, *, seeds: int, device: str, as_json: bool) -> None:
    """Make the data, train both models, add them to a board, verify it, draw and build everything."""
    from snnbench.bench import default_seeds
    from snnbench.cli.convert import make_synthetic
    from snnbench.data_prep.recipe import load_recipe
    from snnbench.paths import dataset_path, home_dir
    from snnbench.tracking import ui_command

    out = out or home_dir() / "quickstart"
    note("1/4  Spoken digits, synthetic speech by espeak-ng, through the cochlea")
    data = dataset_path(TASK)
    if data.is_file():
        note(f"     {data} is there already")
    else:
        make_synthetic(load_recipe(TASK), data, None)

    folders: dict[str, list[Path]] = {}
    records: dict[str, list[RunRecord]] = {}
    with opened_data(TASK, data, check_model=MODELS[0]) as dataset:
        for step, model in enumerate(MODELS, 2):
            note(f"{step}/4  Training {model}, {seeds} seeds; validation voices choose the epoch")
            specs = [spec_for(TASK, model, s, dataset, ()) for s in default_seeds(seeds)]
            records[model] = run_seeds(specs, dataset, out=None, device=device, track=True)
            folders[model] = [runs_folder(None) / spec.run_id for spec in specs]
        note("4/4  Leaderboard: add, verify, build; pictures")
        raster = draw_raster(dataset, out)
    tables = make_board(folders, records, out / "board")
    pictures = [*raster, *copy_run_pictures(folders, out), *draw_tradeoff(tables, out)]
    page = build_page(tables, out / "page")

    facts = {
        "board": [table.as_data() for table in tables],
        "page": str(page),
        "pictures": [str(p) for p in pictures],
        "data": str(data),
        "runs": [str(f) for group in folders.values() for f in group],
        "mlflow_ui": ui_command(),
    }
    answer(as_json, facts, closing_text(tables, facts, out))


def make_board(
    folders: dict[str, list[Path]], records: dict[str, list[RunRecord]], board: Path
) -> list[Table]:
    """A board of these runs, verified, shown together with the shipped rows."""
    from snnbench.leaderboards.add import add_entry
    from snnbench.leaderboards.entries import Root, shipped_root, shipped_tasks
    from snnbench.leaderboards.table import make_tables, verify_roots

    for model, runs in folders.items():
        # only what an earlier quickstart put there: the folder may hold more of the user's
        shutil.rmtree(board / TASK / f"{model}-here", ignore_errors=True)
        dirty = any(record.environment.dirty for record in records[model])
        cover = {"name": f"{model}-here", "authors": ["you"], "note": "quickstart on this machine"}
        add_entry(runs, board, shipped_tasks(), cover=cover, provisional=dirty)
    found = verify_roots([Root("shipped", shipped_root()), Root("here", board)], shipped_tasks())
    if problems := [f"{v.folder}: {p}" for _, v in found for p in v.problems]:
        raise SnnbenchError("\n".join(["the board does not verify:", *problems]))
    note(f"     {len(found)} entries verify")
    return [table for table in make_tables(found) if table.task.name == TASK]


def draw_raster(dataset: SpikeDataset, out: Path) -> list[Path]:
    """Sound and spikes of the first test recording."""
    from snnbench.cli.data import raster_of
    from snnbench.paths import data_dir

    source = data_dir() / "sources" / TASK
    figure, _ = raster_of(dataset, "test", 0, source if source.is_dir() else None)
    return save_both(figure, out / "raster")


def copy_run_pictures(folders: dict[str, list[Path]], out: Path) -> list[Path]:
    """Learning curves and confusion matrix of each model's first seed."""
    from snnbench.bench import PICTURES

    copies = []
    for model, runs in folders.items():
        for picture in sorted((runs[0] / PICTURES).glob("*.*")):
            copies.append(out / f"{model}-{picture.name}")
            shutil.copyfile(picture, copies[-1])
    return copies


def draw_tradeoff(tables: list[Table], out: Path) -> list[Path]:
    """Accuracy against spikes of every row."""
    from snnbench import plots

    points = [
        plots.AccuracyPoint(
            row.entry.name, row.spikes.mean, row.accuracy.mean, row.accuracy.half_width_95
        )
        for table in tables
        for row in table.rows
        if row.spikes
    ]
    figure = plots.accuracy_against_spikes(points, note="synthetic speech")
    return save_both(figure, out / "accuracy-against-spikes")


def build_page(tables: list[Table], folder: Path) -> Path:
    """Markdown, CSV and HTML of the board; returns the page."""
    from snnbench.leaderboards.literature import all_literature
    from snnbench.leaderboards.render import render_board
    from snnbench.paths import write_text

    for name, text in render_board(tables, all_literature()).items():
        write_text(folder / name, text)
    return folder / "index.html"


def save_both(figure: Any, stem: Path) -> list[Path]:
    """Save a figure as SVG and PNG."""
    from snnbench import plots

    paths = [stem.with_name(stem.name + suffix) for suffix in (".svg", ".png")]
    for path in paths:
        plots.save(figure, path)
    return paths


def closing_text(tables: list[Table], facts: dict[str, Any], out: Path) -> Any:
    """The leaderboard, and where to look next."""
    from rich.console import Group

    from snnbench.cli.board import terminal_tables

    places = "\n".join(
        [
            f"page      {facts['page']}",
            f"pictures  {out}/raster.png and {len(facts['pictures']) - 1} more",
            f"runs      {Path(facts['runs'][0]).parent}",
            f"mlflow    {facts['mlflow_ui']}",
            "next      snnbench data list, snnbench models list, snnbench bench --help",
        ]
    )
    return Group(terminal_tables(tables), places)
