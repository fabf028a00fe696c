"""Another split of a converted data set: the same spikes with other speakers held out, in seconds.

The new file is the one that a conversion with these groups writes: the same rule in its recipe, the same
samples in the same order, and so the same fingerprint. A conversion writes the samples of a split in the
order of the source folder, which a file of three splits does not keep. It is known again where the names
of the recordings give it (`IN_ORDER_OF_NAMES`); other data sets are refused, and so is one that left copies
out, since which of two copies stays depends on the split.

Each speaker held out in turn are several such files: `deal_folds`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from snnbench.data_prep.only_writer import only_writer
from snnbench.data_prep.readers import IN_ORDER_OF_NAMES
from snnbench.data_prep.recipe import SplitSpec, sha256_text
from snnbench.data_prep.sources import NO_GROUPS, Recording
from snnbench.data_prep.spikes import Sample
from snnbench.data_prep.split import assign_splits, resolved_rule
from snnbench.data_prep.store import SPLITS, Header, SpikeDataset, create
from snnbench.errors import SnnbenchError, UsageError
from snnbench.spec_base import validated

_AT_ONCE = 1 << 20  # spikes in memory at a time


class HeldOut(NamedTuple):
    """Groups that are not trained on."""

    test: tuple[str, ...]
    valid: tuple[str, ...]


class Place(NamedTuple):
    """Where a sample stands in the file that it comes from."""

    split: str
    position: int


def deal_folds(groups: Sequence[str], n: int) -> list[HeldOut]:
    """Every group tests once: sorted and dealt into n sets like cards, fold k tests on set k.

    Set k + 1 validates, and that of the last fold is the first set.

    Raises
    ------
    UsageError
        Fewer than three folds, which leave nothing to train on, or more than groups.
    """
    if not 3 <= n <= len(groups):
        raise UsageError(
            f"--folds {n}: at least 3, since one set tests, one validates and the others train, and at"
            f" most as many as groups, {len(groups)}"
        )
    sets = [tuple(sorted(groups)[k::n]) for k in range(n)]
    return [HeldOut(sets[k], sets[(k + 1) % n]) for k in range(n)]


def resplit(
    dataset: SpikeDataset,
    out: Path,
    held_out: HeldOut,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the samples of `dataset`, which its `check` has found whole, to `out` in another split.

    Parameters
    ----------
    out
        File to write; appears whole at the end.
    held_out
        Groups to test on and to validate on; all others are trained on.
    progress
        Called with the spikes written and all spikes.

    Raises
    ------
    SnnbenchError
        The data set cannot be split anew, see the module; a group is unknown or both to test and to
        validate; a split would be empty or lack a class; `out` cannot be written.
    """
    header = resplit_header(dataset, held_out)
    places = _places(dataset, held_out)
    with only_writer(out):
        done, total = 0, sum(dataset.n_spikes(split) for split in dataset.splits)
        with create(out, header) as writer:
            for split in SPLITS:
                for samples in _samples(dataset, places[split]):
                    writer.append(split, samples)
                    done += sum(len(s.times) for s in samples)
                    progress(done, total)


def refuse_impossible(dataset: SpikeDataset, held_out: HeldOut) -> None:
    """Raise what `resplit` raises of a data set and groups, without reading spikes."""
    resplit_header(dataset, held_out)
    _places(dataset, held_out)


def resplit_header(dataset: SpikeDataset, held_out: HeldOut) -> Header:
    """The header that the data set has in another split: its recipe tells the rule.

    Raises
    ------
    SnnbenchError
        The data set cannot be split anew, see the module, or a group is both to test and to validate.
    """
    recipe = _recipe(dataset)
    rule = validated(SplitSpec, recipe.get("split"), f"{dataset.path}: recipe.split")
    _require_order(dataset, recipe["source"]["kind"], rule)
    rule = resolved_rule(rule, held_out.test, held_out.valid)
    processing = json.dumps(
        recipe | {"split": rule.model_dump(mode="json")}, sort_keys=True, separators=(",", ":")
    )
    # made_by stays: it tells which version made the spikes
    return dataclasses.replace(
        dataset.header, recipe=processing, recipe_sha256=sha256_text(processing)
    )


def is_split_of(dataset: SpikeDataset, held_out: HeldOut, path: Path) -> bool:
    """Whether the file `path` is what `resplit` makes of `dataset` with these groups."""
    with SpikeDataset.open(path) as other:
        return (
            other.header.recipe_sha256 == resplit_header(dataset, held_out).recipe_sha256
            and other.identity.source_sha256 == dataset.identity.source_sha256
        )


def _recipe(dataset: SpikeDataset) -> dict[str, Any]:
    recipe = json.loads(dataset.header.recipe)
    if not isinstance(recipe, dict) or not {"source", "split"} <= recipe.keys():
        raise SnnbenchError(
            f"{dataset.path}: its recipe names no source and split; convert the data again"
        )
    return recipe


def _require_order(dataset: SpikeDataset, kind: str, rule: SplitSpec) -> None:
    """Refuse data sets whose conversion with other groups would not be what is made here."""
    again = "; convert it again with --test-groups and --valid-groups"
    if set(dataset.header.groups) == {NO_GROUPS}:
        why = "knows no groups (speakers), so none can be held out"
    elif kind == "published-spikes":
        why = "holds published spikes, whose test file is the test split"
    elif kind not in IN_ORDER_OF_NAMES:
        why = f"comes from a source ({kind}) whose order the file does not keep{again}"
    elif rule.duplicates == "drop":
        why = f"may lack copies of recordings, and which of them depends on the split{again}"
    else:
        return
    raise SnnbenchError(f"{dataset.path}: {why}")


def _places(dataset: SpikeDataset, held_out: HeldOut) -> dict[str, list[Place]]:
    """Where the samples of each new split are, in the order of a conversion."""
    recordings: dict[Place, Recording] = {}
    for split in map(dataset.split, dataset.splits):
        names = [name for name, _ in split.sources()]
        if names != sorted(names):
            raise SnnbenchError(
                f"{dataset.path}: {split.name} is not in the order of names; convert the data again"
            )
        facts = zip(names, split.labels.tolist(), split.groups.tolist(), strict=True)
        for i, (name, label, group) in enumerate(facts):
            place = Place(split.name, i)
            recordings[place] = Recording(None, name, label, dataset.header.groups[group])
    groups = {r.group for r in recordings.values()}
    if groups <= {*held_out.test, *held_out.valid}:
        raise UsageError(
            f"{dataset.path}: has the groups {', '.join(sorted(groups))}; none is left to train"
        )
    rule = SplitSpec(test_groups=held_out.test, valid_groups=held_out.valid)
    splits = assign_splits([*recordings.values()], rule, folder=dataset.path)
    _require_classes(dataset, [*recordings.values()], splits)
    places: dict[str, list[Place]] = {split: [] for split in SPLITS}
    for place in sorted(recordings, key=lambda place: recordings[place].source_id):
        places[splits[recordings[place].source_id]].append(place)
    return places


def _require_classes(
    dataset: SpikeDataset, recordings: Sequence[Recording], splits: dict[str, str]
) -> None:
    """Refuse a split without one of the file's classes, as a conversion does."""
    present = {(splits[r.source_id], r.label) for r in recordings}
    for split, label in itertools.product(SPLITS, sorted({label for _, label in present})):
        if (split, label) not in present:
            raise SnnbenchError(
                f"{dataset.path}: no recording of {dataset.header.classes[label]!r} would be in the"
                f" split {split}; choose other groups"
            )


def _samples(dataset: SpikeDataset, places: Sequence[Place]) -> Iterator[list[Sample]]:
    """The samples at `places`, in blocks."""
    readers = {split: dataset.split(split) for split in dataset.splits}
    hashes = {split: [h for _, h in reader.sources()] for split, reader in readers.items()}
    for split, start, stop in _runs(places):
        for block in readers[split].blocks(_AT_ONCE, start, stop):
            yield [
                Sample(
                    *block.sample(i),
                    label=int(block.labels[i]),
                    group=int(block.groups[i]),
                    source_id=block.source_ids[i],
                    source_sha256=hashes[split][start + i],
                )
                for i in range(len(block))
            ]
            start += len(block)


def _runs(places: Sequence[Place]) -> Iterator[tuple[str, int, int]]:
    """Split, start and stop of samples that stand one behind the other in the file."""
    begun = 0
    for i, place in enumerate(places, 1):
        if i == len(places) or places[i] != Place(place.split, place.position + 1):
            yield place.split, places[begun].position, place.position + 1
            begun = i
