"""Whole speakers are held out, by the first rule that applies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnbench.data_prep.recipe import SplitSpec, load_recipe
from snnbench.data_prep.sources import Recording
from snnbench.data_prep.split import assign_splits, resolved_rule
from snnbench.errors import SnnbenchError, UsageError

RULE = load_recipe("hd").split
NOWHERE = Path("/nonexistent")


def recordings(groups: Sequence[str], each: int = 3) -> list[Recording]:
    return [Recording(Path(f"{g}-{i}"), f"{g}-{i}", i, g) for g in groups for i in range(each)]


def speakers(*numbers: int) -> list[Recording]:
    return recordings([f"{n:02d}" for n in numbers])


def groups_of(found: list[Recording], splits: dict[str, str], split: str) -> set[str]:
    return {r.group for r in found if splits[r.source_id] == split}


ALL = speakers(*range(12))
SHARED = [r for r in ALL if r.group not in ("04", "05")]


# --- the four rules


def test_rule_1_groups_on_the_command_line_come_first(tmp_path: Path) -> None:
    write_lists(tmp_path, ALL, test=("00-0",))
    splits = assign_splits(ALL, RULE, folder=tmp_path, test_groups=["01"], valid_groups=["02"])
    assert groups_of(ALL, splits, "test") == {"01"}
    assert groups_of(ALL, splits, "valid") == {"02"}


def test_rule_2_lists_decide_where_both_are_there(tmp_path: Path) -> None:
    write_lists(tmp_path, ALL, test=("00-0", "08-1", "04-0", "04-1", "04-2"))
    splits = assign_splits(ALL, RULE, folder=tmp_path)
    assert {i for i, s in splits.items() if s == "test"} == {"00-0", "08-1", "04-0", "04-1", "04-2"}
    assert groups_of(ALL, splits, "valid") == {"08", "09"}
    assert not {"08", "09"} & groups_of(ALL, splits, "train")


@pytest.mark.parametrize("absent", ["train_filenames.txt", "test_filenames.txt"])
def test_one_list_alone_decides_nothing(tmp_path: Path, absent: str) -> None:
    write_lists(tmp_path, ALL, test=("00-0",))
    (tmp_path / absent).unlink()
    splits = assign_splits(ALL, RULE, folder=tmp_path)
    assert groups_of(ALL, splits, "test") == {"04", "05"}


def test_rule_3_preferred_groups_where_all_are_there() -> None:
    assert groups_of(ALL, assign_splits(ALL, RULE, folder=NOWHERE), "test") == {"04", "05"}


@pytest.mark.parametrize("missing", [{"04", "05"}, {"04"}])
def test_rule_4_else_the_recipes_groups(missing: set[str]) -> None:
    found = [r for r in ALL if r.group not in missing]
    splits = assign_splits(found, RULE, folder=NOWHERE)
    assert groups_of(found, splits, "test") == {"10", "11"}
    assert groups_of(found, splits, "valid") == {"08", "09"}


# --- what no split may do


@given(
    st.sets(st.integers(0, 30), min_size=3, max_size=10),
    st.data(),
)
def test_splits_cover_everything_once_and_hold_speakers_out(
    numbers: set[int], data: st.DataObject
) -> None:
    names = [f"{n:02d}" for n in sorted(numbers)]
    test = data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=len(names) - 2))
    rest = sorted(set(names) - test)
    valid = data.draw(st.sets(st.sampled_from(rest), min_size=1, max_size=len(rest) - 1))
    overlap = data.draw(st.sets(st.sampled_from(sorted(test))))
    found = recordings(names, each=2)
    splits = assign_splits(
        found, RULE, folder=NOWHERE, test_groups=sorted(test), valid_groups=sorted(valid | overlap)
    )
    assert splits.keys() == {r.source_id for r in found}
    by_split = {s: groups_of(found, splits, s) for s in ("train", "valid", "test")}
    assert by_split == {"train": set(rest) - valid, "valid": valid, "test": test}


@given(st.data())
def test_listed_recordings_are_tested_and_validation_speakers_never_trained(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    ids = [r.source_id for r in SHARED]
    test = data.draw(st.sets(st.sampled_from(ids), min_size=1, max_size=8))
    folder = tmp_path_factory.mktemp("lists")
    write_lists(folder, SHARED, test=tuple(test))
    splits = assign_splits(SHARED, RULE, folder=folder, valid_groups=["00", "01", "02"])
    assert {i for i, s in splits.items() if s == "test"} == test
    assert not {"00", "01", "02"} & groups_of(SHARED, splits, "train")
    assert splits.keys() == set(ids)


# --- lists that do not work out


def write_lists(
    folder: Path,
    found: list[Recording],
    *,
    test: tuple[str, ...],
    train: tuple[str, ...] | None = None,
) -> None:
    rest = [r.source_id for r in found if r.source_id not in test]
    for name, ids in (("train", rest if train is None else train), ("test", test)):
        lines = "".join(f"{i}.flac\n" for i in ids)
        (folder / f"{name}_filenames.txt").write_text(lines)


def refusal(folder: Path) -> str:
    with pytest.raises(SnnbenchError) as caught:
        assign_splits(ALL, RULE, folder=folder)
    return str(caught.value)


def test_a_list_that_names_absent_recordings(tmp_path: Path) -> None:
    write_lists(tmp_path, ALL, test=("00-0", "12-1", "12-0"))
    message = refusal(tmp_path)
    assert message.startswith(str(tmp_path / "test_filenames.txt"))
    assert "names 2 recordings that are not there, first 12-0" in message


def test_a_recording_in_both_lists(tmp_path: Path) -> None:
    write_lists(tmp_path, ALL, test=("00-0",), train=tuple(r.source_id for r in ALL))
    assert refusal(tmp_path).startswith("00-0 is in both ")


def test_a_recording_in_neither_list(tmp_path: Path) -> None:
    write_lists(tmp_path, ALL, test=("00-0",), train=("00-1",))
    assert refusal(tmp_path) == "00-2 is in neither train_filenames.txt nor test_filenames.txt"


# --- groups that do not work out


@pytest.mark.parametrize(
    ("kind", "options"),
    [("test group", {"test_groups": ["4"]}), ("validation group", {"valid_groups": ["4"]})],
)
def test_an_unknown_group_suggests_near_ones(kind: str, options: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError, match=f"unknown {kind} '4'; did you mean 04"):
        assign_splits(ALL, RULE, folder=NOWHERE, **options)


def test_a_recipe_whose_speakers_are_absent() -> None:
    with pytest.raises(UsageError, match="unknown test group '10'"):
        assign_splits(speakers(0, 1, 8, 9), RULE, folder=NOWHERE)


@pytest.mark.parametrize(
    ("test", "valid", "empty"),
    [(["00", "01"], ["02"], "train"), (["02"], ["02"], "valid"), (["00"], ["01", "02"], "train")],
)
def test_an_empty_split_is_refused(test: list[str], valid: list[str], empty: str) -> None:
    with pytest.raises(SnnbenchError, match=f"no recording is left for the split {empty}"):
        assign_splits(speakers(0, 1, 2), RULE, folder=NOWHERE, test_groups=test, valid_groups=valid)


# --- the rule that is written into the file


def test_the_command_lines_choice_is_written_into_the_rule() -> None:
    assert resolved_rule(RULE, (), ()) == RULE
    rule = resolved_rule(RULE, ["04"], ["01", "02"])
    assert rule == SplitSpec(test_groups=("04",), valid_groups=("01", "02"))
    assert resolved_rule(RULE, (), ["01"]).train_list == RULE.train_list


def test_the_written_rule_gives_the_same_split(tmp_path: Path) -> None:
    write_lists(tmp_path, ALL, test=("00-0",))
    chosen = assign_splits(ALL, RULE, folder=tmp_path, test_groups=["01"], valid_groups=["02"])
    again = assign_splits(ALL, resolved_rule(RULE, ["01"], ["02"]), folder=tmp_path)
    assert again == chosen
