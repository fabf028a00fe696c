"""Search spaces: conditions, grids, and how they are written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from snnbench.errors import UsageError
from snnbench.search_space import Space, parse_space, read_search_file

TABLES: dict[str, dict[str, Any]] = {
    # asked after the key that it depends on, wherever it stands
    "slope": {"low": 1.0, "high": 3.0, "step": 1.0, "when": {"kind": ["fast", "steep"]}},
    "kind": {"choices": ["fast", "steep", "flat"]},
    "depth": {"low": 1, "high": 2, "when": {"slope_on": True, "kind": "fast"}},
    "slope_on": {"choices": [True, False]},
}
FIXED = {"task.size": 4, "task.words": ["a"]}


def space(tables: dict[str, Any] = TABLES) -> Space:
    return Space("file.toml: search", tables, FIXED.__getitem__)


def test_a_key_is_asked_where_its_condition_holds() -> None:
    asked: list[str] = []

    def ask(answers: dict[str, Any]) -> dict[str, Any]:
        asked.clear()

        def suggest(key: str, distribution: Any) -> Any:
            asked.append(key)
            return answers[key]

        return space().ask(suggest)

    everything = {"kind": "fast", "slope_on": True, "slope": 2.0, "depth": 1}
    assert ask(everything) == everything
    assert asked.index("kind") < asked.index("slope")
    assert set(ask({**everything, "kind": "steep"})) == {"kind", "slope_on", "slope"}
    assert set(ask({**everything, "kind": "flat"})) == {"kind", "slope_on"}
    assert set(ask({**everything, "slope_on": False})) == {"kind", "slope_on", "slope"}


def test_a_condition_on_a_condition_falls_with_it() -> None:
    tables = {
        "a": {"choices": [1, 2]},
        "b": {"choices": ["x", "y"], "when": {"a": 1}},
        "c": {"low": 0.0, "high": 1.0, "when": {"b": "x"}},
    }
    values: dict[str, Any] = {"a": 2, "b": "x", "c": 0.5}
    assert space(tables).ask(lambda key, _: values[key]) == {"a": 2}


def test_a_condition_on_what_is_fixed() -> None:
    for size, there in ((4, True), ([3, 4], True), (3, False)):
        tables = {
            "lr": {"low": 0.1, "high": 1.0, "when": {"task.size": size}},
            "k": {"choices": [1]},
        }
        got = space(tables).ask(lambda key, _: {"lr": 0.5, "k": 1}[key])
        assert ("lr" in got) == there


def test_a_grid_has_every_combination_once() -> None:
    grid = space().grid()
    assert len({str(values) for values in grid}) == len(grid) == 9 + 6 + 2
    by_hand = [
        {"kind": kind, "slope_on": on, **slope, **depth}
        for kind in ("fast", "steep", "flat")
        for on in (True, False)
        for slope in ([{"slope": s} for s in (1.0, 2.0, 3.0)] if kind != "flat" else [{}])
        for depth in ([{"depth": d} for d in (1, 2)] if on and kind == "fast" else [{}])
    ]
    assert sorted(map(str, (sorted(v.items()) for v in grid))) == sorted(
        map(str, (sorted(v.items()) for v in by_hand))
    )


def test_a_grid_of_a_range_without_steps_is_refused() -> None:
    tables = {"a": {"choices": [1]}, "train.lr": {"low": 0.1, "high": 0.2}}
    with pytest.raises(
        UsageError, match=r"train\.lr: a grid needs choices, steps or whole numbers"
    ):
        space(tables).grid()
    assert space({"n": {"low": 2, "high": 4}}).grid() == [{"n": 2}, {"n": 3}, {"n": 4}]


def test_corners_see_every_key_under_its_condition() -> None:
    # asked at a value that is neither the first nor the last
    middle = {"low": 0.0, "high": 1.0, "when": {"kind": "steep"}}
    tables = {**TABLES, "middle": middle}
    corners = list(space(tables).corners())
    for key, table in tables.items():
        ends = table.get("choices") or [table["low"], table["high"]]
        assert all(any(values.get(key) == end for values in corners) for end in ends)
    for values in corners:
        # asked in the order of conditions, nothing else is needed and nothing is left over
        assert space(tables).ask(partial(_answer, values)) == values


def _answer(values: dict[str, Any], key: str, distribution: Any) -> Any:
    return values[key]


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("fast", r"file\.toml: search\.x\.when: needs a table .* found 'fast'"),
        ({"kidn": "fast"}, r"unknown key 'file\.toml: search\.x\.when\.kidn'; did you mean .*kind"),
        ({"kind": "fsat"}, r"search\.x\.when: kind is never 'fsat'; its choices are"),
        ({"slope": 1.0}, r"search\.x\.when: slope is a range, and a condition needs choices"),
        ({"x": 1}, r"search: conditions in a circle: x -> x"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(when: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        space({**TABLES, "x": {"choices": [1], "when": when}})


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("1e-4:1e-2:log", {"low": 1e-4, "high": 1e-2, "log": True}),
        ("0.0:0.5", {"low": 0.0, "high": 0.5}),
        ("8:64:8", {"low": 8, "high": 64, "step": 8}),
        ("32,64", {"choices": [32, 64]}),
        ("adam,adamax", {"choices": ["adam", "adamax"]}),
        ("adam, 3", {"choices": ["adam", 3]}),
        ("[8],[16, 16]", {"choices": [[8], [16, 16]]}),
        ("0.5", {"choices": [0.5]}),
        ("a:b", {"choices": ["a:b"]}),
        ("true,false", {"choices": [True, False]}),
    ],
)
def test_space_on_the_command_line(text: str, table: dict[str, Any]) -> None:
    parsed = parse_space([f"train.lr={text}"])
    assert parsed == {"train.lr": table}
    assert [type(v) for v in parsed["train.lr"].values()] == [type(v) for v in table.values()]


@pytest.mark.parametrize("text", ["train.lr", "=1:2", "train.lr="])
def test_a_space_without_key_or_values_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write KEY=LOW:HIGH, .* KEY=A,B,C"):
        parse_space([text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[search", "cannot be read as TOML"),
        ("[serach]", r"unknown key .*serach'; did you mean .*: search"),
        ("[search]", r"needs a table \[search\]"),
        (
            "[search]\ntrain.lr = {low = 1}",
            r"search\.train: needs .* a dotted key stands in quotes",
        ),
        ("[search]\nlr = 3", r"search\.lr: needs .* found 3"),
    ],
)
def test_a_file_that_is_no_search_space_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_search_file(path)


def test_a_search_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[search]\n"train.lr" = { low = 1, high = 2, when = { "a.b" = 3 } }\n')
    assert read_search_file(path) == {"train.lr": {"low": 1, "high": 2, "when": {"a.b": 3}}}
    with pytest.raises(UsageError, match=r"cannot be read as TOML: .*No such file"):
        read_search_file(tmp_path / "none.toml")
