"""Which recording is in which split: whole speakers held out, never one recording twice.

The recipe's rule says how the test split is found:

groups         whole groups. The first that applies: the recipe's list files, where the source folder
               holds both; its preferred test groups, where all of them are among the recordings; its
               test groups.
filename-hash  Google's rule for Speech Commands: a hash of the speaker, or of the file's name, gives a
               percentage, so that a recording stays where it is when others are added.
takes          numbered repetitions of every speaker.
published      the source itself says it.

Groups named on the command line replace all of this. Validation takes whole groups out of what is left,
so no group is in both train and valid; where no validation groups are named, the hash, the source or the
last training samples decide. A validation speaker may also be in test, as the published SHD test list
holds 5 % of every speaker.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from snnbench.data_prep.recipe import Recipe, SplitSpec
from snnbench.data_prep.sources import NO_GROUPS, Recording, read_lines, read_list
from snnbench.errors import SnnbenchError, UsageError, unknown_name

_HASH_RANGE = 2**27


def resolved_rule(
    rule: SplitSpec,
    test_groups: Sequence[str],
    valid_groups: Sequence[str],
    recordings: Sequence[Recording] = (),
) -> SplitSpec:
    """The rule with the user's choice written into it, for the file and its digest.

    Parameters
    ----------
    test_groups, valid_groups
        Replace the recipe's choice where given.
    recordings
        Where they bring splits of their own, these count.

    Raises
    ------
    UsageError
        A group is to test and to validate, or none is to validate.
    """
    if test_groups:
        validate = tuple(valid_groups) or rule.valid_groups
        if both := sorted(set(test_groups) & set(validate)):
            raise UsageError(
                f"{both[0]} is both a test and a validation group; choose other --test-groups or"
                " --valid-groups"
            )
        if not validate:
            raise UsageError(
                "--valid-groups is missing: --test-groups needs groups to validate too"
            )
        return SplitSpec(
            test_groups=tuple(test_groups), valid_groups=validate, duplicates=rule.duplicates
        )
    changes: dict[str, object] = {}
    if valid_groups:
        changes["valid_groups"] = tuple(valid_groups)
    if any(r.split for r in recordings):
        changes["rule"] = "published"
    return rule.model_copy(update=changes)


def assign_splits(
    recordings: Sequence[Recording], rule: SplitSpec, *, folder: Path, partial: bool = False
) -> dict[str, str]:
    """Source id to "train", "valid" or "test".

    Parameters
    ----------
    rule
        As `resolved_rule` gives it.
    folder
        Source folder, where list files are looked for.
    partial
        Take what is there: listed recordings may be absent and valid or test empty.

    Raises
    ------
    SnnbenchError
        A named group or a listed recording does not exist, a recording is in no list or in both, or
        a split would be empty.
    """
    groups = {r.group for r in recordings}
    if rule.rule == "filename-hash":
        splits = {r.source_id: split_by_hash(r, rule) for r in recordings}
        _check_lists(splits, rule, folder, partial)
    elif rule.rule == "published":
        splits = _published(recordings, rule)
    else:
        if rule.rule == "takes":
            test = {r.source_id for r in recordings if r.take in rule.test_takes}
        else:
            test = _test_ids(recordings, rule, folder, groups, partial)
        splits = {r.source_id: "test" if r.source_id in test else "train" for r in recordings}
    if rule.valid_groups:
        held_out = set(rule.valid_groups)
        _require_known(held_out, groups, "validation group")
        for r in recordings:
            if splits[r.source_id] != "test":
                splits[r.source_id] = "valid" if r.group in held_out else "train"
    present = set(splits.values())
    for split in ("train",) if partial else ("train", "valid", "test"):
        if split not in present:
            raise SnnbenchError(
                f"{folder}: no recording is left for the split {split}; choose --test-groups and"
                " --valid-groups, add recordings, or take what is there with --partial"
            )
    return splits


def split_by_hash(recording: Recording, rule: SplitSpec) -> str:
    """Split by Google's rule for Speech Commands (Warden 2018, arXiv:1804.03209, section 4.1).

    The SHA-1 of the speaker, or of the file's name up to `_nohash_` where no speaker is known, modulo
    2^27, as a percentage: the lowest are validation, the next test. One speaker, or one file name in
    several folders, is in one split.
    """
    name = recording.group
    if name == NO_GROUPS:
        name = recording.source_id.rpartition("/")[2].partition("_nohash_")[0]
    number = int(hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest(), 16) % _HASH_RANGE
    percent = number * 100 / (_HASH_RANGE - 1)
    if percent < rule.valid_percent:
        return "valid"
    return "test" if percent < rule.valid_percent + rule.test_percent else "train"


def check_classes(
    recordings: Sequence[Recording], splits: dict[str, str], classes: Sequence[str]
) -> None:
    """Raise SnnbenchError where a class is in no recording of a split."""
    present = {(splits[r.source_id], r.label) for r in recordings}
    for split in ("train", "valid", "test"):
        missing = [name for i, name in enumerate(classes) if (split, i) not in present]
        if missing:
            others = f" and {len(missing) - 1} more classes" if len(missing) > 1 else ""
            raise SnnbenchError(
                f"no recording of {missing[0]!r}{others} in the split {split}; add some, choose other"
                " groups, or take what is there with --partial"
            )


def check_groups(recordings: Sequence[Recording], splits: dict[str, str]) -> None:
    """Raise SnnbenchError where a group is both trained on and validated on."""
    first = {(splits[r.source_id], r.group): r.source_id for r in reversed(recordings)}
    for r in recordings:
        if r.group != NO_GROUPS and {("train", r.group), ("valid", r.group)} <= first.keys():
            raise SnnbenchError(
                f"group {r.group!r} is in train ({first['train', r.group]}) and in valid"
                f" ({first['valid', r.group]}); give all its recordings to one of them, or name whole"
                " groups with --valid-groups"
            )


def missing_recordings(recipe: Recipe, splits: dict[str, str], *, partial: bool) -> str:
    """What to tell of missing or additional recordings, empty where all are there.

    Raises
    ------
    SnnbenchError
        The source brings its own splits, and one is not as large as published, unless `partial`.
    """
    expected = recipe.expected_samples
    if not expected or len(splits) == sum(expected.values()):
        return ""
    if recipe.split.rule == "published" and not partial:
        found = Counter(splits.values())
        if "valid" not in expected:  # it is taken out of training here
            found["train"] += found.pop("valid", 0)
        counts = ", ".join(f"{found[s]} of {n} in {s}" for s, n in expected.items())
        raise SnnbenchError(f"{recipe.name}: {counts}; --partial takes what is there")
    return f"{len(splits)} of {sum(expected.values())} recordings"


def without_duplicates(
    recordings: Sequence[Recording], splits: dict[str, str], hashes: dict[str, str]
) -> list[Recording]:
    """The recordings less those whose content another one has.

    Of several one of test is kept rather than one of valid, one of valid rather than one of train, and
    else the first.
    """
    rank = {"test": 0, "valid": 1, "train": 2}
    kept: dict[str, Recording] = {}
    for r in sorted(recordings, key=lambda r: rank[splits[r.source_id]]):
        # a computed sample has no source that could be there twice
        kept.setdefault(hashes[r.source_id] or r.source_id, r)
    ids = {r.source_id for r in kept.values()}
    return [r for r in recordings if r.source_id in ids]


def refuse_duplicates(
    recordings: Sequence[Recording], splits: dict[str, str], hashes: dict[str, str]
) -> None:
    """Raise SnnbenchError naming two recordings with the same content."""
    seen: dict[str, str] = {}
    for r in recordings:
        content = hashes[r.source_id]
        if content and (other := seen.setdefault(content, r.source_id)) != r.source_id:
            raise SnnbenchError(
                f"{r.source_id} ({splits[r.source_id]}) and {other} ({splits[other]}) are the same"
                " recording; remove one, or leave all copies out with --duplicates drop"
            )


def _published(recordings: Sequence[Recording], rule: SplitSpec) -> dict[str, str]:
    splits = {r.source_id: r.split for r in recordings}
    if rule.valid_last and not rule.valid_groups and "valid" not in splits.values():
        train = [source_id for source_id, split in splits.items() if split == "train"]
        splits |= dict.fromkeys(train[-rule.valid_last :], "valid")
    return splits


def _test_ids(
    recordings: Sequence[Recording], rule: SplitSpec, folder: Path, groups: set[str], partial: bool
) -> set[str]:
    lists = [folder / name for name in (rule.train_list, rule.test_list) if name]
    if len(lists) == 2 and all(path.is_file() for path in lists):
        return _listed_test_ids(recordings, *lists, partial=partial)
    if rule.preferred_test_groups and set(rule.preferred_test_groups) <= groups:
        chosen = set(rule.preferred_test_groups)
    else:
        chosen = set(rule.test_groups)
    _require_known(chosen, groups, "test group")
    return {r.source_id for r in recordings if r.group in chosen}


def _listed_test_ids(
    recordings: Sequence[Recording], train_list: Path, test_list: Path, *, partial: bool
) -> set[str]:
    train, test = read_list(train_list), read_list(test_list)
    present = {r.source_id for r in recordings}
    for path, names in ((train_list, train), (test_list, test)):
        if not partial:
            _require_present(path, set(names), present)
    if both := sorted(set(train) & set(test)):
        raise SnnbenchError(f"{both[0]} is in both {train_list} and {test_list}")
    if neither := sorted(present - set(train) - set(test)):
        raise SnnbenchError(f"{neither[0]} is in neither {train_list.name} nor {test_list.name}")
    return set(test)


def _check_lists(splits: dict[str, str], rule: SplitSpec, folder: Path, partial: bool) -> None:
    """Compare the hash's split with the lists that came with the recordings."""
    for split, name in (("valid", rule.valid_list), ("test", rule.test_list)):
        path = folder / name
        if not name or not path.is_file():
            continue
        listed = {Path(line).with_suffix("").as_posix() for line in read_lines(path)}
        if not partial:
            _require_present(path, listed, set(splits))
        for source_id in sorted(listed & splits.keys()):
            if splits[source_id] != split:
                raise SnnbenchError(
                    f"{path}: lists {source_id}, which by the hash of its name is in"
                    f" {splits[source_id]}; is this another release of the data?"
                )


def _require_present(path: Path, listed: set[str], present: set[str]) -> None:
    if absent := sorted(listed - present):
        raise SnnbenchError(
            f"{path}: names {len(absent)} recordings that are not there, first {absent[0]};"
            " --partial takes what is there"
        )


def _require_known(chosen: set[str], groups: set[str], kind: str) -> None:
    for group in sorted(chosen - groups):
        raise unknown_name(kind, group, groups)
