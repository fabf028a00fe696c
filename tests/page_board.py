"""A board as the page must be able to show it, without any training: two tasks, rows of every standing,
records with and without the later figures, hostile text, published results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.entries import Root, shipped_tasks
from snnbench.leaderboards.literature import LiteratureRow
from snnbench.leaderboards.table import Table, make_tables, verify_roots
from snnbench.spec import DataPins, load_task
from tests.factories import add_robustness, make_run_folder, make_run_folders

EVIL = (
    '<script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7*7 }} | [x](javascript:alert(3))'
)
# the shipped task pins the labels of its data, and these rows' labels are made up
SYNTHETIC = load_task("digits-synthetic").model_copy(update={"pins": DataPins()})
TASKS = shipped_tasks() | {(SYNTHETIC.name, SYNTHETIC.version): SYNTHETIC}

ROWS: list[tuple[str, int, dict[str, Any]]] = [
    ("steady", 10, {"accuracy": 0.90, "spikes": 400}),
    ("close", 10, {"accuracy": 0.902, "spikes": 1600, "model_keys": {"hidden": (256,)}}),
    ("weak", 10, {"accuracy": 0.70, "spikes": 90, "train_keys": {"lr": 2e-3}}),
    ("half", 6, {"accuracy": 0.95, "spikes": 500, "train_keys": {"lr": 3e-3}}),
    ("once", 1, {"accuracy": 0.99, "spikes": 700, "train_keys": {"lr": 4e-3}}),
]
"""Of task hd: name, seeds, keys of `make_record`."""
TESTED = {"steady": 10, "close": 3, "once": 1}
"""Seeds that are tested on changed samples."""
LEFT = {"steady": 0.7, "close": 0.8, "once": 0.5}
"""Share of the accuracy above chance that each level leaves of the one before."""


def published(name: str, year: int, source: str, percent: float, **more: Any) -> LiteratureRow:
    """A published result."""
    keys = {"name": name, "year": year, "source": source, "accuracy_percent": percent, **more}
    return LiteratureRow.model_validate(keys)


LITERATURE = {
    "hd": [
        published(
            "Big net", 2024, "https://example.org/a", 95.1, sd_percent=0.3, seeds=10,
            parameters=200_000, protocol="test-picked", mark="L",
        ),
        published(
            "Old net", 2020, "Journal 3, 1 to 9", 83.2, sd_percent=1.3, parameters=1_700_000,
            spikes=2500.0, protocol="unknown", mark="2",
        ),
        published(
            EVIL, 2022, "javascript:alert(6)", 80.0, seeds=3, spikes=800.0, protocol="loso", mark="C",
            note=EVIL,
        ),
    ],
    "shd": [
        published(
            "Far net", 2025, "https://example.org/b", 96.0, parameters=90_000,
            protocol="random hold-out", mark="P",
        ),
    ],
    "ssc": [],
}  # fmt: skip


def make_board(folder: Path) -> Path:
    """The board's folder, made in `folder`. Every row of hd but `weak` has the later figures.

    Of hd, `steady` is tested on changed samples with all seeds, `close` with three of its ten, `once` with
    its one.
    """
    root = folder / "board"
    for name, n, keys in ROWS:
        runs = make_run_folders(folder / name, n, later_figures=name != "weak", **keys)
        for run in runs[: TESTED.get(name, 0)]:
            add_robustness(run, left=LEFT[name])
        add_entry(runs, root, shipped_tasks(), cover={"name": name})
    runs = [
        make_run_folder(folder / "evil", seed=0, status="diverged", task=SYNTHETIC),
        make_run_folder(folder / "evil", seed=1, task=SYNTHETIC),
    ]
    cover = {"name": "evil", "authors": [EVIL], "note": EVIL, "code": "javascript:alert(4)"}
    cover |= {"paper": 'https://example.org/"onmouseover="alert(5)'}
    add_entry(runs, root, TASKS, cover=cover)
    return root


def tables_of(board: Path) -> list[Table]:
    """Its tables, as `snnbench board` makes them."""
    return make_tables(verify_roots([Root("board", board)], TASKS))
