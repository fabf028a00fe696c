"""Whole speakers are held out, by the rule of the recipe or the groups on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnbench.data_prep import split as splitting
from snnbench.data_prep.recipe import Recipe, SplitSpec, load_recipe
from snnbench.data_prep.sources import NO_GROUPS, Recording
from snnbench.data_prep.split import (
    check_classes,
    check_groups,
    missing_recordings,
    refuse_duplicates,
    resolved_rule,
    split_by_hash,
    without_duplicates,
)
from snnbench.errors import SnnbenchError, UsageError

RULE = load_recipe("hd").split
NOWHERE = Path("/nonexistent")


def recordings(groups: Sequence[str], each: int = 3) -> list[Recording]:
    return [Recording(Path(f"{g}-{i}"), f"{g}-{i}", i, g) for g in groups for i in range(each)]


def assign_splits(
    found: list[Recording],
    rule: SplitSpec,
    *,
    folder: Path,
    test_groups: Sequence[str] = (),
    valid_groups: Sequence[str] = (),
    **options: Any,
) -> dict[str, str]:
    """Splits as a conversion finds them: the user's choice is written into the rule first."""
    chosen = resolved_rule(rule, test_groups, valid_groups, found)
    return splitting.assign_splits(found, chosen, folder=folder, **options)


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
    found = recordings(names, each=2)
    splits = assign_splits(
        found, RULE, folder=NOWHERE, test_groups=sorted(test), valid_groups=sorted(valid)
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
    [(["00", "01"], ["02"], "train"), (["00"], ["01", "02"], "train")],
)
def test_no_recording_is_left_to_train(test: list[str], valid: list[str], empty: str) -> None:
    with pytest.raises(SnnbenchError, match=f"no recording is left for the split {empty}"):
        assign_splits(speakers(0, 1, 2), RULE, folder=NOWHERE, test_groups=test, valid_groups=valid)


def test_a_group_in_test_and_validation_is_refused() -> None:
    with pytest.raises(UsageError, match="02 is both a test and a validation group"):
        assign_splits(ALL, RULE, folder=NOWHERE, test_groups=["02"], valid_groups=["02", "03"])
    # the recipe's own validation speakers are 08 and 09
    with pytest.raises(UsageError, match="08 is both a test and a validation group"):
        assign_splits(ALL, RULE, folder=NOWHERE, test_groups=["08"])


# --- by a hash of the name

GSC = load_recipe("gsc").split


@pytest.mark.parametrize(
    ("split", "speakers"),
    [
        # from the archive's own validation_list.txt and testing_list.txt
        (
            "valid",
            "8b775397 2643992f 060cd039 f5e5e8b0 dbb40d24 d57febf0 16db1582 6a27a9bf 6f5b4d3d",
        ),
        (
            "test",
            "2aa787cf ffa76c4a 24ad3ebe d7467392 5828dfa2 91223b83 f0ae7203 27c30960 7add4c5f",
        ),
    ],
)
def test_the_hash_agrees_with_googles_lists(split: str, speakers: str) -> None:
    for speaker in speakers.split():
        known = Recording(None, f"cat/{speaker}_nohash_0", 0, speaker)
        unknown = Recording(None, f"go/{speaker}_nohash_3.wav", 0, NO_GROUPS)
        assert split_by_hash(known, GSC) == split_by_hash(unknown, GSC) == split
        as_archived = GSC.model_copy(update={"test_percent": 10})
        assert split_by_hash(known, as_archived) == split


def test_the_shares_of_the_hash_are_those_asked_for() -> None:
    found = [Recording(None, f"word/{i}.wav", 0, NO_GROUPS) for i in range(20_000)]
    rule = SplitSpec(rule="filename-hash", valid_percent=10, test_percent=20)
    splits = list(assign_splits(found, rule, folder=NOWHERE).values())
    assert splits.count("valid") / len(splits) == pytest.approx(0.1, abs=0.01)
    assert splits.count("test") / len(splits) == pytest.approx(0.2, abs=0.01)


@given(st.sets(st.text("abcdef0123456789", min_size=1, max_size=8), min_size=2, max_size=30))
def test_a_recording_stays_where_it_is_when_others_come(names: set[str]) -> None:
    found = [Recording(None, f"word/{name}_nohash_{i}", 0, name) for name in names for i in (0, 1)]
    before = {r.source_id: split_by_hash(r, GSC) for r in found[2:]}
    after = {r.source_id: split_by_hash(r, GSC) for r in found}
    assert after.items() >= before.items()
    assert all(after[r.source_id] == after[f"word/{r.group}_nohash_0"] for r in found)


def spoken_words(folder: Path, **lists: str) -> dict[str, str]:
    names = ("8b775397", "2aa787cf", "01bb6a2a", "4abb2400", "c120e80e", "00176480")
    found = [Recording(None, f"cat/{n}_nohash_0", 0, n) for n in names]
    for name, text in lists.items():
        (folder / f"{name}_list.txt").write_text(text)
    return assign_splits(found, GSC, folder=folder)


def test_lists_that_agree_with_the_hash_change_nothing(tmp_path: Path) -> None:
    lists = {
        "validation": "cat/8b775397_nohash_0.wav\n",
        # the archive's list holds half of our test split
        "testing": "",
    }
    assert spoken_words(tmp_path) == spoken_words(tmp_path, **lists)


def test_lists_that_contradict_the_hash_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        SnnbenchError, match=r"validation_list\.txt: lists cat/2aa787cf_nohash_0, .*test"
    ):
        spoken_words(tmp_path, validation="cat/2aa787cf_nohash_0.wav\n")
    with pytest.raises(
        SnnbenchError, match=r"names 1 recordings that are not there, first bed/0_n"
    ):
        spoken_words(tmp_path, validation="", testing="bed/0_nohash_0.wav\n")


# --- by number of the take


def takes() -> list[Recording]:
    return [
        Recording(None, f"{digit}_{name}_{take}", digit, name, take=take)
        for digit in (0, 1)
        for name in ("george", "theo", "yweweler")
        for take in range(7)
    ]


def test_takes_0_to_4_are_tested_and_one_speakers_others_validate() -> None:
    splits = assign_splits(takes(), load_recipe("fsdd").split, folder=NOWHERE)
    for r in takes():
        expected = "test" if r.take < 5 else "valid" if r.group == "yweweler" else "train"
        assert splits[r.source_id] == expected


def test_groups_on_the_command_line_replace_the_takes() -> None:
    rule = load_recipe("fsdd").split
    chosen = resolved_rule(rule, ["theo"], ["george"])
    assert (chosen.rule, chosen.test_takes) == ("groups", ())
    splits = assign_splits(takes(), rule, folder=NOWHERE, test_groups=["theo"])
    assert groups_of(takes(), splits, "test") == {"theo"}
    assert groups_of(takes(), splits, "valid") == {"yweweler"}
    with pytest.raises(UsageError, match="--valid-groups is missing"):
        resolved_rule(SplitSpec(rule="filename-hash", test_percent=20), ["theo"], [])


# --- by the source itself


def published(**n_samples: int) -> list[Recording]:
    return [
        Recording(None, f"{split}-{i}", i % 2, f"{i % 3}", split=split)
        for split, n in n_samples.items()
        for i in range(n)
    ]


def counts(splits: dict[str, str]) -> tuple[int, int, int]:
    values = list(splits.values())
    return values.count("train"), values.count("valid"), values.count("test")


def test_the_sources_own_splits() -> None:
    rule = SplitSpec(rule="published", valid_last=4)
    own = published(train=9, valid=3, test=2)
    assert counts(assign_splits(own, rule, folder=NOWHERE)) == (9, 3, 2)
    two = published(train=9, test=2)
    splits = assign_splits(two, rule, folder=NOWHERE)
    assert [i for i, s in splits.items() if s == "valid"] == [f"train-{i}" for i in range(5, 9)]
    # groups come before the last ones, and before a validation split of the source
    for found in (own, two):
        splits = assign_splits(found, rule, folder=NOWHERE, valid_groups=["2"])
        assert groups_of(found, splits, "valid") == {"2"}
        assert groups_of(found, splits, "train") == {"0", "1"}
        assert counts(splits)[2] == 2


def test_splits_that_recordings_bring_replace_a_hash() -> None:
    rule = load_recipe("audio-folder").split
    found = published(train=4, valid=2, test=2)
    assert resolved_rule(rule, (), (), found).rule == "published"
    assert counts(assign_splits(found, rule, folder=NOWHERE)) == (4, 2, 2)


def test_a_missing_split_is_accepted_where_the_user_says_so() -> None:
    found = published(train=4)
    rule = SplitSpec(rule="published", valid_last=1)
    with pytest.raises(SnnbenchError, match="no recording is left for the split test"):
        assign_splits(found, rule, folder=NOWHERE)
    assert counts(assign_splits(found, rule, folder=NOWHERE, partial=True)) == (3, 1, 0)


def test_a_speaker_whom_the_source_trains_and_validates_on_is_refused() -> None:
    found = published(train=1, valid=4, test=3)  # the groups are 0; 0, 1, 2, 0; 0, 1, 2
    splits = assign_splits(found, SplitSpec(rule="published"), folder=NOWHERE)
    with pytest.raises(
        SnnbenchError, match=r"'0' is in train \(train-0\) and in valid \(valid-0\)"
    ):
        check_groups(found, splits)
    check_groups(found[2:4] + found[5:], splits)  # a speaker may be tested on as well
    check_groups([r._replace(group=NO_GROUPS) for r in found], splits)


# --- what is there


def test_a_class_missing_from_a_split_is_named() -> None:
    found = recordings(["a", "b", "c"], each=2)
    splits = {r.source_id: {"a": "train", "b": "valid", "c": "test"}[r.group] for r in found}
    check_classes(found, splits, ["zero", "one"])
    with pytest.raises(SnnbenchError, match=r"no recording of 'two' in the split train.*--partial"):
        check_classes(found, splits, ["zero", "one", "two"])
    with pytest.raises(SnnbenchError, match="no recording of 'one' in the split valid"):
        check_classes(found[:2] + found[2:3] + found[4:], splits, ["zero", "one"])


def counted(rule: str, **expected: int) -> Recipe:
    split = SplitSpec.model_validate({"rule": rule})
    return load_recipe("hd").model_copy(update={"expected_samples": expected, "split": split})


def test_counts_are_told_or_refused() -> None:
    splits = {str(i): "test" if i < 2 else "valid" if i < 3 else "train" for i in range(8)}
    assert missing_recordings(counted("groups"), splits, partial=False) == ""
    assert missing_recordings(counted("published", train=6, test=2), splits, partial=False) == ""
    told = missing_recordings(counted("groups", train=8, test=2), splits, partial=False)
    assert told == "8 of 10 recordings"
    with pytest.raises(SnnbenchError, match="hd: 6 of 8 in train, 2 of 2 in test; --partial"):
        missing_recordings(counted("published", train=8, test=2), splits, partial=False)
    assert missing_recordings(counted("published", train=8, test=2), splits, partial=True) == told


# --- the same recording twice


def test_a_copy_in_another_split_is_refused_and_both_are_named() -> None:
    found = recordings(["a", "b"], each=2)
    splits = {"a-0": "train", "a-1": "train", "b-0": "valid", "b-1": "test"}
    hashes = {r.source_id: r.source_id for r in found}
    refuse_duplicates(found, splits, hashes)
    with pytest.raises(SnnbenchError, match=r"b-1 \(test\) and a-0 \(train\) are the same"):
        refuse_duplicates(found, splits, hashes | {"b-1": "a-0"})
    with pytest.raises(SnnbenchError, match=r"a-1 \(train\) and a-0 \(train\) are the same"):
        refuse_duplicates(found, splits, hashes | {"a-1": "a-0"})
    refuse_duplicates(found, splits, dict.fromkeys(hashes, ""))  # computed, not read


@given(
    st.lists(st.tuples(st.sampled_from(["train", "valid", "test"]), st.integers(0, 5)), min_size=1)
)
def test_of_copies_that_of_test_stays_then_that_of_validation(drawn: list[tuple[str, int]]) -> None:
    found = [Recording(None, str(i), 0, "a") for i in range(len(drawn))]
    splits = {str(i): split for i, (split, _) in enumerate(drawn)}
    hashes = {str(i): str(content) for i, (_, content) in enumerate(drawn)}
    kept = without_duplicates(found, splits, hashes)
    assert [int(r.source_id) for r in kept] == sorted(int(r.source_id) for r in kept)
    assert sorted(hashes[r.source_id] for r in kept) == sorted(set(hashes.values()))
    refuse_duplicates(kept, splits, hashes)
    order = ("test", "valid", "train")
    for r in kept:
        copies = [i for i, h in hashes.items() if h == hashes[r.source_id]]
        best = min(copies, key=lambda i: (order.index(splits[i]), int(i)))
        assert r.source_id == best


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
