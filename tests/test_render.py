"""The pages: deterministic, self-contained, safe with other people's text, true to the tables."""

import csv
import io
import re
import shutil
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.chart import (
    accuracy_against_spikes,
    linear_ticks,
    logarithmic_ticks,
)
from snnbench.leaderboards.entries import Root, shipped_tasks
from snnbench.leaderboards.render import render_board, rerun_commands
from snnbench.leaderboards.table import Table, make_tables, verify_roots
from snnbench.leaderboards.terminal import TerminalTables
from snnbench.spec import DataPins, load_task
from tests.factories import make_run_folder, make_run_folders
from tests.test_board import snnbench

EVIL = (
    '<script>alert(1)</script><img src=x onerror="alert(2)"> {{ 7*7 }} | [x](javascript:alert(3))'
)
# the shipped task pins the labels of its data, and these rows' labels are made up
SYNTHETIC = load_task("digits-synthetic").model_copy(update={"pins": DataPins()})
TASKS = shipped_tasks() | {(SYNTHETIC.name, SYNTHETIC.version): SYNTHETIC}


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A board of two tasks: ranked, tied, provisional, unranked and diverged rows, and hostile text."""
    tmp_path = tmp_path_factory.mktemp("rows")
    rows: list[tuple[str, int, dict[str, Any]]] = [
        ("steady", 10, {"accuracy": 0.90, "spikes": 400}),
        ("close", 10, {"accuracy": 0.902, "spikes": 1600, "model_keys": {"hidden": (256,)}}),
        ("weak", 10, {"accuracy": 0.70, "spikes": 90}),
        ("half", 6, {"accuracy": 0.95, "spikes": 500}),
        ("once", 1, {"accuracy": 0.99, "spikes": 700}),
    ]
    root = tmp_path / "board"
    for name, n, keys in rows:
        runs = make_run_folders(tmp_path / name, n, **keys)
        add_entry(runs, root, shipped_tasks(), cover={"name": name})
    runs = [
        make_run_folder(tmp_path / "evil", seed=0, status="diverged", task=SYNTHETIC),
        make_run_folder(tmp_path / "evil", seed=4, task=SYNTHETIC),
    ]
    cover = {"name": "evil", "authors": [EVIL], "note": EVIL, "code": "javascript:alert(4)"}
    cover |= {"paper": 'https://example.org/"onmouseover="alert(5)'}
    add_entry(runs, root, TASKS, cover=cover)
    return root


def tables_of(board) -> list[Table]:
    return make_tables(verify_roots([Root("board", board)], TASKS))


class Page(HTMLParser):
    """Elements and their attributes, and what is visible as text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_equal_boards_give_equal_bytes(board):
    assert render_board(tables_of(board)) == render_board(list(tables_of(board)))
    assert set(render_board(tables_of(board))) == {
        "index.html",
        "hd.md",
        "hd.csv",
        "digits-synthetic.md",
        "digits-synthetic.csv",
    }


def test_check_names_what_is_stale(board, tmp_path, capsys):
    out, pinned = tmp_path / "page", tmp_path / "board"
    shutil.copytree(board / "hd", pinned / "hd")
    command = ("board", "build", "--board", pinned, "--out", out)
    assert snnbench(*command, "--check") == 1
    assert not out.exists()
    assert snnbench(*command) == 0
    capsys.readouterr()
    assert snnbench(*command, "--check") == 0
    (out / "hd.csv").write_text("old")
    (out / "index.html").unlink()
    assert snnbench(*command, "--check") == 1
    told = capsys.readouterr().out
    assert "hd.csv: stale" in told
    assert "index.html: stale" in told
    assert "hd.md" not in told


def test_other_peoples_text_stays_text(board):
    html = render_board(tables_of(board))["index.html"]
    page = Page(html)
    assert EVIL in page.text
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "img" not in {tag for tag, _ in page.elements}
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    links = [a["href"] or "" for tag, a in page.elements if tag == "a"]
    assert any(link.startswith("https://example.org/") for link in links)
    assert all(link.startswith(("https://", "#")) for link in links)


def test_page_asks_nothing_of_the_network(board):
    page = Page(render_board(tables_of(board))["index.html"])
    for tag, attributes in page.elements:
        assert "src" not in attributes
        assert tag not in ("iframe", "object", "embed", "base")
        assert tag != "link" or attributes["href"] == "data:,"
    (policy,) = [a["content"] for t, a in page.elements if a.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_ids_are_unique_and_references_lead_somewhere(board):
    page = Page(render_board(tables_of(board))["index.html"])
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for key in ("aria-controls", "aria-labelledby"):
            assert attributes.get(key, ids[0]) in ids
        href = attributes.get("href") or ""
        assert not href.startswith("#") or href[1:] in ids


def test_synthetic_speech_is_labelled_everywhere(board):
    files = render_board(tables_of(board))
    assert "SYNTHETIC SPEECH" in files["digits-synthetic.md"]
    assert "SYNTHETIC SPEECH" not in files["hd.md"]
    assert files["index.html"].count("SYNTHETIC SPEECH") == 1
    assert next(csv.DictReader(io.StringIO(files["digits-synthetic.csv"])))["synthetic"] == "true"


def test_markdown_and_csv_tell_the_same_ranks(board):
    files = render_board(tables_of(board))
    lines = list(csv.DictReader(io.StringIO(files["hd.csv"])))
    assert [(line["entry"], line["rank"], line["standing"]) for line in lines] == [
        ("close", "1", "ranked"),
        ("steady", "1", "ranked"),
        ("weak", "3", "ranked"),
        ("half", "", "provisional"),
        ("once", "", "unranked"),
    ]
    body = [line.split(" | ") for line in files["hd.md"].splitlines() if line.startswith("| ")][1:]
    assert [cells[0].strip("| ") for cells in body] == ["1", "1", "3", "prov.", "–"]
    assert all(re.fullmatch(r"\d\d\.\d\d.*", cells[2]) for cells in body)


def test_diverged_seed_is_shown_and_counted(board):
    (row,) = tables_of(board)[0].rows
    assert row.n_diverged == 1
    assert row.accuracy.mean == pytest.approx(row.accuracies[1] / 2)
    assert "1 diverged" in Page(render_board(tables_of(board))["index.html"]).text


def test_every_row_says_how_to_run_it_again(board):
    rows = {row.entry.name: row for table in tables_of(board) for row in table.rows}
    close = rerun_commands(rows["close"])
    assert close.startswith("snnbench bench hd ff-lif ")
    assert "--set model.hidden='[256]'" in close
    assert close.endswith("--data hd.h5 --seeds 10")
    assert [line.split()[-1] for line in rerun_commands(rows["evil"]).splitlines()] == ["0", "4"]
    assert "--data" not in rerun_commands(rows["evil"])


def test_boards_with_different_data_are_never_one_table(board, tmp_path):
    runs = [make_run_folder(tmp_path / "other", n_samples=300, accuracy=1.0)]
    grown = shutil.copytree(board, tmp_path / "grown")
    add_entry(runs, grown, shipped_tasks(), cover={"name": "fewer"})
    hd = [table for table in tables_of(grown) if table.task.name == "hd"]
    assert sorted(len(table.rows) for table in hd) == [1, 5]


def test_empty_board_is_a_page_that_says_so():
    files = render_board([])
    assert set(files) == {"index.html"}
    assert "No entries yet" in files["index.html"]


def test_chart_keeps_everything_inside(board):
    (hd,) = [table for table in tables_of(board) if table.task.name == "hd"]
    for size in ((860.0, 340.0), (360.0, 300.0)):
        chart = accuracy_against_spikes(hd.rows, *size)
        assert chart is not None
        assert len(chart.points) == 5
        for point in chart.points:
            assert chart.left <= point.x_bar[0] <= point.x <= point.x_bar[1] <= chart.right
            assert chart.top <= point.y_bar[1] <= point.y <= point.y_bar[0] <= chart.bottom
        positions = [p.x for p in sorted(chart.points, key=lambda p: p.row.spikes or (0,))]
        assert positions == sorted(positions)
        heights = [p.y for p in sorted(chart.points, key=lambda p: p.row.accuracy.mean)]
        assert heights == sorted(heights, reverse=True)
        assert len(chart.x_ticks) >= 3
        assert len(chart.y_ticks) >= 3


@settings(deadline=None)
@given(st.floats(1e-3, 1e6), st.floats(1.56, 1e4))
def test_logarithmic_ticks_are_inside_and_enough(low, factor):
    ticks = logarithmic_ticks(low, low * factor)
    assert 3 <= len(ticks) <= 16
    assert ticks == sorted(set(ticks))
    assert all(low * 0.999 <= t <= low * factor * 1.001 for t in ticks)


@settings(deadline=None)
@given(st.floats(0, 99), st.floats(0.5, 100))
def test_linear_ticks_are_inside_and_enough(low, span):
    ticks = linear_ticks(low, low + span)
    assert 3 <= len(ticks) <= 8
    assert all(low - 1e-6 <= t <= low + span + 1e-6 for t in ticks)


@pytest.mark.parametrize("width", [48, 60, 80, 100, 120, 200])
def test_terminal_table_fits_and_cuts_no_figure(board, width):
    from rich.console import Console

    screen = io.StringIO()
    Console(file=screen, width=width).print(TerminalTables(tuple(tables_of(board))))
    lines = screen.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "…" not in screen.getvalue()
    for row in (row for table in tables_of(board) for row in table.rows):
        mean = f"{100 * row.accuracy.mean:.2f}"
        assert any(row.entry.name in line and mean in line for line in lines)


def test_terminal_shows_other_peoples_text_as_it_is(tmp_path):
    from rich.console import Console

    runs = [make_run_folder(tmp_path / "runs", model="[red]net\x1b[31m")]
    add_entry(runs, tmp_path / "board", shipped_tasks(), cover={"name": "row"})
    screen = io.StringIO()
    Console(file=screen, width=200).print(TerminalTables(tuple(tables_of(tmp_path / "board"))))
    assert "row ([red]net [31m)" in screen.getvalue()
