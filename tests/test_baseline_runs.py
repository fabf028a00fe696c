"""A baseline from data file to leaderboard: nothing is told of spikes that it does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from snnbench.bench import evaluate_again, run_seed
from snnbench.cli.run import bench_text, record_text
from snnbench.data_prep.store import SpikeDataset
from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.entries import Root, shipped_tasks
from snnbench.leaderboards.render import cells, render_board, rerun_commands
from snnbench.leaderboards.table import Row, make_tables, verify_roots
from snnbench.record import RunRecord
from snnbench.spec import make_run_spec
from snnbench.tracking import NullTracker
from tests.commands import snnbench, strict_json
from tests.factories import make_run_folders
from tests.tiny_data import write_dataset

CPU = torch.device("cpu")
QUICK = {"train.epochs": 2, "train.units_per_channel": 20, "train.batch_size": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "hd.h5")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    folder = tmp_path_factory.mktemp("runs") / "lstm"
    with SpikeDataset.open(data) as dataset:
        spec = make_run_spec(
            "hd",
            "lstm",
            seed=0,
            data_fingerprint=dataset.fingerprint,
            overrides={**QUICK, "model.hidden": [8]},
        )
        tracker = NullTracker()
        return run_seed(spec, dataset, folder=folder, device=CPU, tracker=tracker), folder


def row_of(board: Path, name: str) -> Row:
    tables = make_tables(verify_roots([Root("board", board)], shipped_tasks()))
    return next(row for table in tables for row in table.rows if row.entry.name == name)


def test_a_record_has_work_and_no_spikes(finished: tuple[RunRecord, Path]):
    record, folder = finished
    assert record.operations is not None
    assert record.operations.spikes == {}
    assert record.environment.engine is None
    # 140 steps of 35 channels
    assert record.operations.dense_macs == 140 * (4 * 8 * (35 + 8) + 8 * 20)
    assert record.n_parameters == 4 * 8 * (35 + 8 + 2) + 8 * 20 + 20
    pictures = {path.stem for path in (folder / "pictures").iterdir()}
    assert pictures == {"learning-curves", "confusion", "weights"}
    assert "no hidden spikes and" in record_text(record, folder)


def test_a_finished_run_predicts_the_same_again(data: Path, finished: tuple[RunRecord, Path]):
    with SpikeDataset.open(data) as dataset:
        _, _, different = evaluate_again(finished[1], dataset, CPU)
    assert different == 0


def test_a_run_is_drawn_again_with_what_it_has(
    data: Path, finished: tuple[RunRecord, Path], tmp_path: Path
):
    facts = strict_json(
        snnbench("models", "plot", finished[1], "--data", data, "--out", tmp_path, "--json").out
    )
    assert {Path(file).stem for file in facts["files"]} == {"weights"}


def test_a_row_is_added_verified_and_shown_without_spikes(
    finished: tuple[RunRecord, Path], tmp_path: Path
):
    board = tmp_path / "board"
    # this checkout may have uncommitted changes
    cover = {"name": "memory"}
    added = add_entry([finished[1]], board, shipped_tasks(), cover=cover, provisional=True).verified
    assert added.ok, added.problems
    row = row_of(board, "memory")
    assert row.spikes is None
    assert cells(row)["spikes"] == "–"
    assert row.as_data()["spikes_per_sample"] is None
    assert "snnbench bench hd lstm --set model.hidden='[8]' --set" in rerun_commands(row)


def test_a_board_of_both_kinds_of_rows_plots_those_with_spikes(tmp_path: Path):
    board = tmp_path / "board"
    rows: dict[str, dict[str, Any]] = {
        "cnn": {"model_keys": {"kind": "cnn"}, "spikes": None},
        "ff-lif": {},
    }
    for name, keys in rows.items():
        runs = make_run_folders(tmp_path / name, 2, model=name, **keys)
        add_entry(runs, board, shipped_tasks(), cover={"name": name})
    page = render_board(make_tables(verify_roots([Root("board", board)], shipped_tasks())))
    [told] = [line for line in page["hd.md"].splitlines() if "| cnn |" in line]
    assert "| – |" in told
    assert page["index.html"].count('<circle class="dot') == 2  # one point, on two sizes of screen


def test_seeds_are_listed_with_a_dash(finished: tuple[RunRecord, Path]):
    record, folder = finished
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as capture:
        console.print(bench_text([record], [folder]))
    [cells_of_seed] = [
        words for line in capture.get().splitlines() if (words := line.split())[:1] == ["0"]
    ]
    assert cells_of_seed[5] == "–"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("lstm", ["f[n] = sigmoid(W_f X[n] + V_f H[n-1] + b_f)", "max of Y[n] over all steps"]),
        ("cnn", ["H <- relu(batch_norm(K * H)), K * H over 5 x 5 places of time and channels"]),
        ("counts-linear", ["c = sums of X over 1 x 140 parts", "x = log(1 + c)"]),
    ],
)
def test_a_baseline_is_shown_without_headings_of_neurons(name: str, lines: list[str]):
    shown = snnbench("models", "show", name).out
    for line in (*lines, "and no hidden ones", "Loss", f"model.name = {name}"):
        assert line in shown
    for heading in ("Hidden units", "Backward pass"):
        assert heading not in shown
