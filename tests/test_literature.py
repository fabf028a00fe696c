"""Published results: provenance of every number, clear errors, and never among verified rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from snnbench.errors import SnnbenchError
from snnbench.leaderboards.literature import (
    MARKS,
    PROTOCOLS,
    all_literature,
    literature_of,
    read_literature,
)
from snnbench.leaderboards.render import comma_separated, markdown, render_board
from snnbench.spec import task_names
from tests.commands import snnbench, strict_json
from tests.page_board import make_board, tables_of

ROW = """
[[result]]
name = "A net"
year = 2024
source = "https://example.org"
accuracy_percent = 91.5
protocol = "loso"
mark = "P"
"""


def written(folder: Path, text: str, name: str = "shd") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


# --- what ships


def test_what_ships_is_of_tasks_that_ship_and_every_number_says_where_it_is_from() -> None:
    literature = all_literature()
    assert {"shd", "ssc"} <= set(literature) <= set(task_names())
    for task, rows in literature.items():
        assert rows == literature_of(task)
        for row in rows:
            assert row.mark in MARKS
            assert row.protocol in PROTOCOLS
            assert row.source.startswith("https://") or str(row.year) in row.source, row.name
            assert 0 < row.accuracy < 1


def test_marks_that_prove_nothing_cannot_be_written(tmp_path: Path) -> None:
    assert "M" not in MARKS
    for mark in ("M", "D", ""):
        path = written(tmp_path, 'task = "shd"' + ROW.replace('mark = "P"', f'mark = "{mark}"'))
        with pytest.raises(SnnbenchError, match=r"shd\.toml: result\.0\.mark: unknown mark"):
            read_literature(path)


def test_two_numbers_by_hand() -> None:
    shd = {(row.name, row.year): row for row in literature_of("shd")}
    cramer = shd["Cramer et al., recurrent 1024, jitter and noise", 2020]
    assert (cramer.accuracy, cramer.accuracy_sd) == (pytest.approx(0.832), pytest.approx(0.013))
    assert (cramer.mark, cramer.protocol) == ("L", "unknown")
    assert shd["DCLS delays", 2024].protocol == "test-picked"


def test_a_task_without_published_results_has_none() -> None:
    assert literature_of("randman") == ()
    assert literature_of("no-such-task") == ()


# --- files of this form


def test_newest_come_first_then_names(tmp_path: Path) -> None:
    older = ROW.replace("A net", "Older").replace("2024", "2019")
    text = 'task = "shd"' + older + ROW.replace("A net", "B net") + ROW
    assert [r.name for r in read_literature(written(tmp_path, text))] == ["A net", "B net", "Older"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task = ", r"shd\.toml: cannot be read as TOML"),
        ('task = "ssc"' + ROW, r"shd\.toml: task is 'ssc', the file is of 'shd'"),
        ('task = "shd"', r"shd\.toml: result: is missing"),
        (
            'task = "shd"\nresults = 1' + ROW,
            r"shd\.toml: unknown key 'results'; did you mean result",
        ),
        (
            'task = "shd"' + ROW.replace("year = 2024", ""),
            r"shd\.toml: result\.0\.year: is missing",
        ),
        (
            'task = "shd"' + ROW.replace("91.5", "915"),
            r"shd\.toml: result\.0\.accuracy_percent:.*915",
        ),
        (
            'task = "shd"' + ROW.replace("loso", "lozo"),
            r"result\.0\.protocol: unknown protocol 'lozo'",
        ),
        ('task = "shd"' + ROW + "rank = 1", r"shd\.toml: unknown key 'result\.0\.rank'"),
        (
            'task = "shd"' + ROW + ROW,
            r"shd\.toml: result\.1\.name: 'A net' of 2024 is there already",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_file_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(SnnbenchError, match=message):
        read_literature(written(tmp_path, text))


# --- apart from the board


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_board(tmp_path_factory.mktemp("rows"))


def test_published_results_stand_below_the_ranked_table_and_change_nothing_in_it(
    board: Path,
) -> None:
    hd = [table for table in tables_of(board) if table.task.name == "hd"]
    without, published = markdown(hd), literature_of("shd")
    told = markdown(hd, published)
    assert told.startswith(without)
    below = told.removeprefix(without)
    assert below.startswith("\n## Published results, not verified\n")
    assert "Rank" not in below
    assert below.count("\n| ") == len(published) + 1
    assert "Cramer et al., recurrent 1024, jitter and noise | 2020 | 83.2 ± 1.3 |" in below
    assert r"\[L\] | " in below
    assert "[L] the leaderboard of the data set's authors" in below
    files = render_board(hd, {"hd": published})
    assert files["hd.md"] == told
    assert files["hd.csv"] == comma_separated(hd), "published results are in no CSV"


def test_show_lists_them_below_and_apart(board: Path) -> None:
    plain = snnbench("board", "show", "shd", "--board", board)
    assert plain.code == 0
    assert "Published" not in plain.out
    text = snnbench("board", "show", "shd", "--board", board, "--literature")
    assert text.code == 0, text.err
    assert "no entries yet" in text.out
    assert "Published results, not verified: shd" in text.out
    assert "83.2 ± 1.3" in text.out
    assert "second hand" in text.out


def test_show_tells_them_apart_in_json(board: Path) -> None:
    words = ("board", "show", "hd", "--board", board, "--json")
    told = strict_json(snnbench(*words, "--literature").out)
    assert told == {"tables": strict_json(snnbench(*words).out), "literature": {}}
    told = strict_json(snnbench(*words[:2], *words[3:], "--literature").out)
    assert set(told["literature"]) == set(all_literature())
    assert len(told["literature"]["shd"]) == len(literature_of("shd"))
    assert all("rank" not in row for rows in told["literature"].values() for row in rows)


def test_a_task_nobody_has_published_on_is_told(board: Path) -> None:
    told = snnbench("board", "show", "hd", "--board", board, "--literature")
    assert told.code == 0
    assert "no published results are known of hd" in told.err
