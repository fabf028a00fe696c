"""The pages: deterministic, self-contained, safe with other people's text, true to the tables."""

import csv
import io
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnbench.corruption_spec import CORRUPTIONS
from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.chart import (
    COSTS,
    Mark,
    axes,
    cost_axis,
    draw,
    linear_ticks,
    literature_marks,
    logarithmic_ticks,
    pareto_front,
    row_marks,
)
from snnbench.leaderboards.commands import training_commands
from snnbench.leaderboards.curves import LEVELS, Confusion, confusion_of, curves_of
from snnbench.leaderboards.details import details_of, duration, short, size
from snnbench.leaderboards.entries import shipped_tasks
from snnbench.leaderboards.render import MARKS, PROTOCOLS, cells, page, render_board, rerun_commands
from snnbench.leaderboards.robustness_view import CHANCE_Y, CLEAN_Y, changed_of
from snnbench.leaderboards.terminal import TerminalTables
from tests.factories import add_robustness, make_run_folder
from tests.page_board import EVIL, LITERATURE, make_board, tables_of
from tests.test_board import snnbench


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A board of two tasks: ranked, tied, provisional, unranked and diverged rows, and hostile text."""
    return make_board(tmp_path_factory.mktemp("rows"))


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


def test_built_page_is_opened_in_the_readers_browser(board, tmp_path, monkeypatch):
    pinned, out = tmp_path / "board", tmp_path / "page"
    shutil.copytree(board / "hd", pinned / "hd")
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    command = ("board", "build", "--board", str(pinned), "--out", str(out), "--open")
    subprocess.run([sys.executable, "-m", "snnbench", *command], check=True)
    assert (tmp_path / "opened").read_text() == (out / "index.html").as_uri()


def test_other_peoples_text_stays_text(board):
    parsed = Page(page(tables_of(board), LITERATURE))
    assert parsed.text.count(EVIL) >= 4  # authors, note, published name and note
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert "img" not in {tag for tag, _ in parsed.elements}
    assert not [a for _, attributes in parsed.elements for a in attributes if a.startswith("on")]
    links = [a["href"] or "" for tag, a in parsed.elements if tag == "a"]
    assert any(link.startswith("https://example.org/") for link in links)
    assert all(link.startswith(("https://", "#")) for link in links)


def test_page_asks_nothing_of_the_network(board):
    parsed = Page(page(tables_of(board), LITERATURE))
    for tag, attributes in parsed.elements:
        assert "src" not in attributes
        assert tag not in ("iframe", "object", "embed", "base")
        assert "style" not in attributes, "the policy forbids it"
        assert tag != "link" or attributes["href"] == "data:,"
    (policy,) = [a["content"] for t, a in parsed.elements if a.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_ids_are_unique_and_references_lead_somewhere(board):
    parsed = Page(page(tables_of(board), LITERATURE))
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.elements:
        for key in ("aria-controls", "aria-labelledby"):
            assert attributes.get(key, ids[0]) in ids
        href = attributes.get("href") or ""
        assert not href.startswith("#") or href[1:] in ids


def test_synthetic_speech_is_labelled_everywhere(board):
    files = render_board(tables_of(board))
    assert "SYNTHETIC DATA" in files["digits-synthetic.md"]
    assert "SYNTHETIC DATA" not in files["hd.md"]
    assert files["index.html"].count("SYNTHETIC DATA") == 1
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
    evil = rows["evil"].records[0].spec
    assert "--data" not in rerun_commands(rows["evil"])
    assert rerun_commands(rows["evil"]).endswith(" --seeds 2")
    gaps = training_commands(evil, [0, 4])
    assert [line.split()[-1] for line in gaps.splitlines()] == ["0", "4"]
    assert "--protocol" not in gaps
    loso = evil.model_copy(update={"task": evil.task.model_copy(update={"protocol": "B"})})
    assert " --protocol B " in training_commands(loso, [0])


def test_boards_with_different_data_are_never_one_table(board, tmp_path):
    runs = [make_run_folder(tmp_path / "other", n_samples=300, fingerprint="e" * 64)]
    grown = shutil.copytree(board, tmp_path / "grown")
    add_entry(runs, grown, shipped_tasks(), cover={"name": "fewer"})
    hd = [table for table in tables_of(grown) if table.task.name == "hd"]
    assert sorted(len(table.rows) for table in hd) == [1, 5]


def test_empty_board_is_a_page_that_says_so():
    files = render_board([])
    assert set(files) == {"index.html"}
    assert "No entries yet" in files["index.html"]


# ---------------------------------------------------------------- published results


def test_published_results_are_on_the_page_and_below_the_table_and_nowhere_else(board):
    tables = tables_of(board)
    files, without = render_board(tables, LITERATURE), render_board(tables)
    assert {name for name in files if files[name] != without[name]} == {"hd.md", "index.html"}
    assert files["hd.md"].startswith(without["hd.md"])
    text = Page(files["index.html"]).text
    for words in ("Big net", "Far net", "test-picked", *PROTOCOLS.values(), *MARKS.values()):
        assert words in text
        assert words not in Page(without["index.html"]).text or words == "test-picked"


def test_published_results_have_no_place_in_front_or_rank(board):
    marks = literature_marks(LITERATURE["hd"], "hd-published")
    assert [mark.kind for mark in marks] == ["literature"] * 3
    assert marks[1].costs == {"spikes": (2500, 2500, 2500), "parameters": (1.7e6, 1.7e6, 1.7e6)}
    (hd,) = [table for table in tables_of(board) if table.task.name == "hd"]
    ours = row_marks(hd.rows)
    assert pareto_front([*ours, *marks], "parameters") == pareto_front(ours, "parameters")


# ---------------------------------------------------------------- plots


def hd_rows(board):
    (hd,) = [table for table in tables_of(board) if table.task.name == "hd"]
    return hd.rows


def test_chart_keeps_everything_inside(board):
    marks = row_marks(hd_rows(board))
    for size_px in ((860.0, 340.0), (360.0, 300.0)):
        chart = draw(marks, *size_px)
        assert chart is not None
        assert chart.cost == "spikes"
        assert len(chart.points) == 5
        for point in chart.points:
            assert chart.left <= point.x_bar[0] <= point.x <= point.x_bar[1] <= chart.right
            assert chart.top <= point.y_bar[1] <= point.y <= point.y_bar[0] <= chart.bottom
        positions = [p.x for p in sorted(chart.points, key=lambda p: p.mark.costs["spikes"][1])]
        assert positions == sorted(positions)
        heights = [p.y for p in sorted(chart.points, key=lambda p: p.mark.accuracy[1])]
        assert heights == sorted(heights, reverse=True)
        assert len(chart.x_ticks) >= 3
        assert len(chart.y_ticks) >= 3


def test_costs_are_those_of_the_records(board):
    rows = {row.entry.name: row for row in hd_rows(board)}
    marks = {mark.name: mark for mark in row_marks(hd_rows(board))}
    assert set(marks["close"].costs) == set(COSTS)
    assert set(marks["weak"].costs) == {"spikes", "parameters"}, "no training time is told"
    assert rows["close"].training_s == marks["close"].costs["training"][1]
    assert marks["close"].costs["parameters"] == (184320, 184320, 184320)


def test_pareto_front_by_hand():
    def mark(name: str, accuracy: float, cost: float, kind: str = "ranked") -> Mark:
        return Mark(name, name, kind, (accuracy,) * 3, {"spikes": (cost,) * 3})

    marks = [
        mark("cheap", 50, 1),
        mark("worse for more", 49, 2),
        mark("good", 80, 3),
        mark("as good for more", 80, 4),
        mark("best", 90, 9),
        mark("no rank", 99, 1, "open"),
    ]
    assert pareto_front(marks, "spikes") == ["cheap", "good", "best"]
    assert pareto_front(reversed(marks), "spikes") == ["cheap", "good", "best"]
    assert pareto_front(marks, "training") == []


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(1e-3, 1e9), st.booleans()), min_size=1, max_size=8
    )
)
def test_every_axis_holds_every_mean(figures):
    marks = [
        Mark(str(i), str(i), "ranked", (a, a, a), {"parameters": (c, c, c)}, sure)
        for i, (a, c, sure) in enumerate(figures)
    ]
    found = axes(marks)
    assert set(found) == {"accuracy", "parameters linear", "parameters logarithmic"}
    for name, (low, high, _, ticks) in found.items():
        at = [m.accuracy[1] if name == "accuracy" else m.costs["parameters"][1] for m in marks]
        # an axis is told in six digits
        assert low * (1 - 1e-5) <= min(at)
        assert max(at) <= high * (1 + 1e-5)
        assert len(ticks) >= 2
        assert all(low <= tick <= high for tick, _ in ticks)
    assert cost_axis(marks, "spikes", logarithmic=True) is None


# ---------------------------------------------------------------- details


def test_confusion_matrix_counts_all_seeds(board):
    rows = {row.entry.name: row for row in hd_rows(board)}
    found = confusion_of(rows["close"])
    assert found is not None
    assert found.counts.shape == (20, 20)
    assert found.counts.sum() == sum(r.test.total for r in rows["close"].records)
    assert np.trace(found.counts) == sum(r.test.correct for r in rows["close"].records)
    (evil,) = tables_of(board)[0].rows
    of_one = confusion_of(evil)  # the other seed diverged
    assert of_one is not None
    assert of_one.counts.sum() == 400


def test_confusion_matrix_by_hand():
    found = Confusion(np.array([[8, 2, 0], [0, 16, 0], [1, 3, 0]]))
    assert found.most_mistaken() == [(2, 1, 3, 4), (0, 1, 2, 10), (2, 0, 1, 4)]
    assert found.packed() == "8,2,;,16,;1,3,"
    paths = dict(found.paths())
    # shade: 8 times the root of the share, upwards
    assert paths == {8: "M0 0h1M1 1h1", 4: "M1 0h1M0 2h1", 7: "M1 2h1"}
    assert max(paths) <= LEVELS


def test_confusion_matrix_of_a_class_without_samples():
    found = Confusion(np.array([[4, 0], [0, 0]]))
    assert found.paths() == [(8, "M0 0h1")]
    assert found.most_mistaken() == []


def test_curves_draw_every_seed_inside_their_frame(board):
    rows = {row.entry.name: row for row in hd_rows(board)}
    accuracy, loss, latency = curves_of(rows["close"])
    kinds = [[kind for kind, _ in drawing.lines] for drawing in (accuracy, loss, latency)]
    assert kinds == [["train", *["seed"] * 10], ["seed"] * 10, [*["seed"] * 10, "mean"]]
    for drawing in (accuracy, loss, latency):
        for _, d in drawing.lines:
            steps = [int(v) for v in re.findall(r"-?\d+", d)]
            points = np.cumsum(np.reshape(steps, (-1, 2)), axis=0)
            assert drawing.box.left <= points[:, 0].min() <= points[:, 0].max() <= drawing.box.right
            assert drawing.box.top <= points[:, 1].min() <= points[:, 1].max() <= drawing.box.bottom
    # 85 % of the last accuracy at 560 ms, 97 % at 700 ms
    assert "nine tenths of the best after 700 of 1400 ms" in latency.summary
    assert curves_of(rows["weak"]) == []


def test_long_training_is_drawn_with_few_points_and_its_last(board):
    row = next(row for row in hd_rows(board) if row.entry.name == "close")
    first = row.records[0]
    epochs = tuple(first.history[0].model_copy(update={"loss": 1e6 / (i + 1)}) for i in range(999))
    long = first.model_copy(update={"history": epochs})
    loss = curves_of(type(row)(row.entry, (long,), {}, "board"))[1]
    ((_, d),) = loss.lines
    steps = [int(v) for v in re.findall(r"-?\d+", d)]
    assert len(steps) <= 2 * 42
    assert tuple(np.reshape(steps, (-1, 2)).sum(axis=0)) == (loss.box.right, loss.box.bottom)
    assert len(loss.y_ticks) >= 2


def test_details_leave_out_what_records_do_not_tell(board):
    rows = {row.entry.name: details_of(row) for row in hd_rows(board)}
    told = {"size in memory", "training, median", "memory at most"}
    assert told <= set(rows["close"]["cost"])
    assert not told & set(rows["weak"]["cost"])
    assert rows["weak"]["layers"] == {}
    assert rows["close"]["layers"]["readout"].dense == 140 * 256 * 20
    assert rows["close"]["cost"]["size in memory"] == "720 KiB"


def test_numbers_as_people_say_them():
    assert [duration(s) for s in (0.1234, 99, 100, 3599.4, 3599.6, 11111)] == [
        *("0.123 s", "99 s", "1 min 40 s", "59 min 59 s", "1 h 00 min", "3 h 05 min"),
    ]
    assert [size(n) for n in (3, 1536, 412_000_000, 2**41)] == [
        *("3 bytes", "1.5 KiB", "392.9 MiB", "2048 GiB"),
    ]
    assert [short(n) for n in (0, 999, 1500, 2e7, 3.21e9)] == [
        "0",
        "999",
        "1.5 k",
        "20 M",
        "3.21 G",
    ]


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


# ---------------------------------------------------------------- robustness


def test_robustness_is_the_mean_over_the_seeds_that_were_tested(board):
    rows = {row.entry.name: row for row in hd_rows(board)}
    # each level leaves 0.7 of what the one before left; counts are whole samples
    told = {name: row.robustness for name, row in rows.items()}
    assert told["steady"] is not None
    assert told["steady"].mean == pytest.approx(sum(0.7**k for k in range(1, 6)) / 5, abs=2e-3)
    assert told["once"] is not None
    assert told["once"].mean == pytest.approx(sum(0.5**k for k in range(1, 6)) / 5, abs=2e-3)
    assert np.isnan(told["once"].sd)
    assert (told["weak"], told["half"]) == (None, None)
    texts = {name: cells(row)["robustness"] for name, row in rows.items()}
    assert re.fullmatch(r"0\.38\d ± 0\.00\d", texts["steady"])
    assert re.fullmatch(r"0\.53\d ± 0\.00\d \(3 of 10 seeds\)", texts["close"])
    assert re.fullmatch(r"0\.19\d", texts["once"])
    assert (texts["weak"], texts["half"]) == ("–", "–")


def test_robustness_of_a_network_that_only_guesses_is_not_told(tmp_path):
    runs = [
        make_run_folder(tmp_path / "runs", seed=s, accuracy=a) for s, a in enumerate((0.8, 0.05))
    ]
    for run in runs:
        add_robustness(run)
    add_entry(runs, tmp_path / "board", shipped_tasks(), cover={})
    (row,) = tables_of(tmp_path / "board")[0].rows
    assert row.robustness is None
    assert row.as_data()["robustness"] is None
    assert cells(row)["robustness"] == "–"
    changed = changed_of(row)
    assert {view.retained for view in changed} == {"–"}
    assert {view.lines for view in changed} == {()}
    assert "Robustness –" in Page(page(tables_of(tmp_path / "board"))).text


def test_tables_have_robustness_only_where_a_row_has(board):
    from rich.console import Console

    files = render_board(tables_of(board))
    assert "| Robustness |" in files["hd.md"]
    assert "1: nothing is lost, 0: chance" in files["hd.md"]
    assert "obustness" not in files["digits-synthetic.md"]
    lines = {line["entry"]: line for line in csv.DictReader(io.StringIO(files["hd.csv"]))}
    figures = [lines["close"][f"robustness{end}"] for end in ("", "_sd", "_seeds")]
    close = next(row for row in hd_rows(board) if row.entry.name == "close").robustness
    assert close is not None
    assert [float(f) for f in figures] == [close.mean, close.sd, 3]
    assert [lines["weak"][f"robustness{end}"] for end in ("", "_sd", "_seeds")] == ["", "", "0"]
    heads = [a["data-key"] for tag, a in Page(files["index.html"]).elements if "data-key" in a]
    assert heads.count("robustness") == 1, "one of two tables has it"
    drawn = [io.StringIO(), io.StringIO()]
    for screen, table in zip(drawn, tables_of(board), strict=True):
        Console(file=screen, width=200).print(TerminalTables((table,)))
    digits, hd = (screen.getvalue() for screen in drawn)
    assert "0.53" in hd
    assert "obustness" not in digits


def test_details_tell_every_corruption(board):
    rows = {row.entry.name: row for row in hd_rows(board)}
    views = {view.title: view for view in changed_of(rows["close"])}
    assert list(views) == [c.title for c in CORRUPTIONS.values()]
    assert [level for level, _ in views["Time jitter"].levels] == ["7", "14", "28", "70", "140"]
    clean = np.mean([rows["close"].accuracies[seed] for seed in range(3)])
    found = [accuracy for _, accuracy in views["Spike deletion"].levels]
    assert found == pytest.approx([0.05 + 0.8**k * (clean - 0.05) for k in range(1, 6)], abs=2e-3)
    assert views["Faster"].retained == cells(rows["close"])["robustness"].split(" (")[0]
    assert [kind for kind, _ in views["Slower"].lines] == [*["seed"] * 3, "mean"]
    assert [kind for kind, _ in changed_of(rows["once"])[0].lines] == ["mean"]
    for _, d in views["Slower"].lines:
        x, y = np.reshape([float(v) for v in re.findall(r"[\d.]+", d)], (-1, 2)).T
        assert x.tolist() == [0, 20, 40, 60, 80, 100]
        assert y[0] == CLEAN_Y, "nothing is lost of the clean samples"
        # the mean height of the levels is the share that is retained
        shares = (CHANCE_Y - y[1:]) / (CHANCE_Y - CLEAN_Y)
        assert shares.mean() == pytest.approx(sum(0.8**k for k in range(1, 6)) / 5, abs=5e-3)
    assert changed_of(rows["weak"]) == []
