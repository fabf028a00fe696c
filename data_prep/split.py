"""Which recording is in which split: whole speakers held out, never one recording twice.

Rules for the test split, the first that applies:
1. groups named on the command line;
2. the recipe's list files, where the source folder holds both;
3. the recipe's preferred test groups, where all of them are among the recordings;
4. the recipe's test groups.
Validation takes whole groups out of what is left, so no group is in both train and valid. Under rule 2
a validation speaker may also be in test, as the published SHD test list holds 5 % of every speaker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from snnbench.data_prep.recipe import SplitSpec
from snnbench.data_prep.sources import Recording, read_list
from snnbench.errors import SnnbenchError, unknown_name


def assign_splits(
    recordings: Sequence[Recording],
    rule: SplitSpec,
    *,
    folder: Path,
    test_groups: Sequence[str] = (),
    valid_groups: Sequence[str] = (),
) -> dict[str, str]:
    """Source id to "train", "valid" or "test".

    Parameters
    ----------
    test_groups, valid_groups
        Replace the recipe's choice where given.

    Raises
    ------
    SnnbenchError
        A named group or a listed recording does not exist, a recording is in no list or in both, or
        a split would be empty.
    """
    groups = {r.group for r in recordings}
    test_ids = _test_ids(recordings, rule, folder, groups, test_groups)
    held_out = set(valid_groups or rule.valid_groups)
    _require_known(held_out, groups, "validation group")
    splits = {
        r.source_id: "test"
        if r.source_id in test_ids
        else "valid"
        if r.group in held_out
        else "train"
        for r in recordings
    }
    for split in ("train", "valid", "test"):
        if split not in splits.values():
            raise SnnbenchError(
                f"{folder}: no recording is left for the split {split};"
                " choose other --test-groups or --valid-groups"
            )
    return splits


def resolved_rule(
    rule: SplitSpec, test_groups: Sequence[str], valid_groups: Sequence[str]
) -> SplitSpec:
    """The rule with the command line's choice written into it, for the file and its digest."""
    changes: dict[str, object] = {}
    if test_groups:
        changes |= {"train_list": "", "test_list": "", "preferred_test_groups": ()}
        changes["test_groups"] = tuple(test_groups)
    if valid_groups:
        changes["valid_groups"] = tuple(valid_groups)
    return rule.model_copy(update=changes)


def _test_ids(
    recordings: Sequence[Recording],
    rule: SplitSpec,
    folder: Path,
    groups: set[str],
    test_groups: Sequence[str],
) -> set[str]:
    lists = [folder / name for name in (rule.train_list, rule.test_list) if name]
    if not test_groups and len(lists) == 2 and all(path.is_file() for path in lists):
        return _listed_test_ids(recordings, *lists)
    if test_groups:
        chosen = set(test_groups)
    elif rule.preferred_test_groups and set(rule.preferred_test_groups) <= groups:
        chosen = set(rule.preferred_test_groups)
    else:
        chosen = set(rule.test_groups)
    _require_known(chosen, groups, "test group")
    return {r.source_id for r in recordings if r.group in chosen}


def _listed_test_ids(
    recordings: Sequence[Recording], train_list: Path, test_list: Path
) -> set[str]:
    train, test = read_list(train_list), read_list(test_list)
    present = {r.source_id for r in recordings}
    for path, names in ((train_list, train), (test_list, test)):
        if absent := sorted(set(names) - present):
            raise SnnbenchError(
                f"{path}: names {len(absent)} recordings that are not there, first {absent[0]}"
            )
    if both := sorted(set(train) & set(test)):
        raise SnnbenchError(f"{both[0]} is in both {train_list} and {test_list}")
    if neither := sorted(present - set(train) - set(test)):
        raise SnnbenchError(f"{neither[0]} is in neither {train_list.name} nor {test_list.name}")
    return set(test)


def _require_known(chosen: set[str], groups: set[str], kind: str) -> None:
    for group in sorted(chosen - groups):
        raise unknown_name(kind, group, groups)
