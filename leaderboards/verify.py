"""Verification of an entry from its files alone: no torch, no data set, no GPU.

What is proved: no byte differs from what was added; every run is of one task, model and data set and
differs in its seed only; run ids follow from the specifications; every count follows from the stored
predictions and labels; the data are those the task pins; counts on changed samples (robustness) fit the
run. What is not: that training gave these predictions, or the network those counts. For that somebody has
to train again: a statement of such a rerun is checked like a run, and has to agree with the seed it repeats
(`snnbench.leaderboards.reproduction`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from snnbench.errors import SnnbenchError
from snnbench.leaderboards.entries import (
    COVER,
    MANIFEST,
    REPRODUCED,
    Tasks,
    belongs,
    entry_files,
    manifest_of,
    manifest_text,
)
from snnbench.leaderboards.reproduction import Comparison, compare, read_statement
from snnbench.leaderboards.verify_robustness import check_robustness
from snnbench.metrics import Counts, all_folds, best_epochs, count_by_group, count_correct
from snnbench.record import (
    DataIdentity,
    Entry,
    Predictions,
    RunRecord,
    labels_sha256,
    read_entry,
    read_predictions,
    read_record,
    sha256_of,
)
from snnbench.robustness import Robustness, read_robustness
from snnbench.spec import TaskSpec

PinState = Literal["agrees", "differs", "not pinned"]
T = TypeVar("T")


class Problem(NamedTuple):
    """What does not hold, and in which file of the entry."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(frozen=True)
class Verified:
    """An entry as read, with everything that is wrong with it; only without problems may it be shown."""

    folder: Path
    entry: Entry | None
    records: tuple[RunRecord, ...]
    """By seed."""
    pins: dict[str, PinState]
    """source, recipe, split, labels: whether the data are those the task pins."""
    problems: tuple[Problem, ...]
    reruns: tuple[Comparison, ...] = ()
    """Seeds that somebody has trained again, by seed."""
    audits: dict[int, Robustness] = field(default_factory=dict)
    """By seed, of the runs that were tested on changed samples."""

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.problems

    @property
    def label(self) -> str:
        """Task and entry as the folders name them."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def verify_entry(folder: Path, tasks: Tasks) -> Verified:
    """Check one entry folder against the tasks; every problem is found, not only the first."""
    if problems := [*_check_files(folder)]:
        # a file that is not what was added proves nothing, so its content is not looked at
        return Verified(folder, None, (), {}, tuple(problems))
    entry = _read(read_entry, folder, COVER, problems)
    files = entry_files(folder)
    records = {
        file: record
        for file in files
        if file.startswith("runs/") and (record := _read(read_record, folder, file, problems))
    }
    pins: dict[str, PinState] = {}
    audits: dict[int, Robustness] = {}
    if entry:
        problems += _check_cover(folder, entry)
    if records:
        first, reference = next(iter(records.items()))
        task = reference.spec.task
        problems += _check_task(first, task, tasks)
        pins = data_pins(task, reference.data)
        problems += [
            Problem(first, f"{name} of the data is not the one that task {task.name} pins")
            for name, state in pins.items()
            if state == "differs"
        ]
        for file, record in records.items():
            problems += _check_same(file, record, first, reference, entry)
            problems += _check_record(file, record)
            problems += _check_predictions(folder, file, record)
            tested = _robustness_of(file)
            if tested in files and (audit := _read(read_robustness, folder, tested, problems)):
                audits[record.spec.seed] = audit
                problems += [Problem(tested, what) for what in check_robustness(audit, record)]
    elif not problems:
        problems.append(Problem("runs", "there is no run"))
    reruns = _check_reruns(folder, records, problems)
    runs = {f for f in files if f.startswith(("runs/", f"{REPRODUCED}/")) and f.endswith(".json")}
    of_runs = {f for f in files if f.endswith(".npz") or f.startswith("robustness/")}
    of_runs -= {of(run) for run in runs for of in (_predictions_of, _robustness_of)}
    problems += [Problem(f, "belongs to no run") for f in sorted(of_runs)]
    by_seed = sorted(records.values(), key=lambda record: record.spec.seed)
    return Verified(folder, entry, tuple(by_seed), pins, tuple(problems), tuple(reruns), audits)


def data_pins(task: TaskSpec, data: DataIdentity) -> dict[str, PinState]:
    """For each of source, recipe, split and labels: does the data agree with what the task pins?"""
    states: dict[str, PinState] = {}
    for name in ("source", "recipe", "split", "labels"):
        pinned = getattr(task.pins, f"{name}_sha256")
        found = getattr(data, f"{name}_sha256")
        states[name] = (
            "not pinned" if pinned is None else "agrees" if pinned == found else "differs"
        )
    return states


def _read(
    reader: Callable[[Path], T], folder: Path, file: str, problems: list[Problem]
) -> T | None:
    try:
        return reader(folder / file)
    except SnnbenchError as error:
        problems.append(Problem(file, _without(folder, file, error)))
        return None


def _check_files(folder: Path) -> Iterator[Problem]:
    files = entry_files(folder)
    links = [
        file for file in files if not (folder / file).is_file() or (folder / file).is_symlink()
    ]
    for file in links:
        yield Problem(file, "is a link or a device; an entry holds plain files only")
    for file in files:
        if not belongs(file):
            yield Problem(file, "does not belong in an entry")
    if COVER not in files:
        yield Problem(COVER, "is missing")
    if MANIFEST not in files:
        yield Problem(MANIFEST, "is missing")
    elif not links:
        yield from _check_manifest(folder)
    if not links and (folder / REPRODUCED).is_dir():
        for problem in _check_manifest(folder / REPRODUCED):
            yield Problem(f"{REPRODUCED}/{problem.file}", problem.what)


def _check_manifest(folder: Path) -> Iterator[Problem]:
    path, found = folder / MANIFEST, manifest_of(folder)
    written = path.read_bytes() if path.exists() else b""
    if written == manifest_text(found).encode():
        return
    lines = (line.partition("  ") for line in written.decode("utf-8", "replace").split("\n"))
    expected = {file: digest for digest, gap, file in lines if gap}
    for file in sorted(expected.keys() | found.keys()):
        if file not in found:
            yield Problem(file, f"is listed in {MANIFEST} and not there")
        elif file not in expected:
            yield Problem(file, f"is not listed in {MANIFEST}")
        elif expected[file] != found[file]:
            yield Problem(
                file, f"sha256 is {found[file]}, {MANIFEST} says {expected[file]!r}: one was edited"
            )
    if expected == found:
        yield Problem(MANIFEST, "has another order, spacing or lines than a manifest has")


def _check_cover(folder: Path, entry: Entry) -> Iterator[Problem]:
    if entry.name != folder.name:
        yield Problem(COVER, f"name is {entry.name!r}, the folder is called {folder.name!r}")
    if entry.task != folder.parent.name:
        yield Problem(COVER, f"task is {entry.task!r}, the folder above is {folder.parent.name!r}")


def _check_task(file: str, task: TaskSpec, tasks: Tasks) -> Iterator[Problem]:
    known = tasks.get((task.name, task.version))
    if known is None:
        yield Problem(file, f"task {task.name} version {task.version} is none of those that ship")
        return
    if task.protocol not in known.protocols:
        yield Problem(
            file,
            f"protocol class {task.protocol} is none that task {task.name} allows:"
            f" {', '.join(known.protocols)}",
        )
    asked = known.of_run.model_copy(update={"protocol": task.protocol})
    if asked != task:
        parts = ", ".join(_differences(asked.model_dump(), task.model_dump()))
        yield Problem(file, f"task {task.name} is not the one that ships: {parts}")


def _check_same(
    file: str, record: RunRecord, first: str, reference: RunRecord, entry: Entry | None
) -> Iterator[Problem]:
    if file != f"runs/seed-{record.spec.seed}.json":
        yield Problem(file, f"holds seed {record.spec.seed}")
    for name in ("spec", "data"):
        mine, other = (getattr(r, name).model_dump() for r in (record, reference))
        for part in _differences(other, mine, skip={"seed"} if name == "spec" else set()):
            yield Problem(file, f"{name} differs from that of {first}: {part}")
    if record.protocol != reference.protocol:
        yield Problem(file, f"protocol {record.protocol}, {first} has {reference.protocol}")
    if entry:
        for key, found in (("task", record.spec.task.name), ("model", record.spec.model.name)):
            if getattr(entry, key) != found:
                yield Problem(file, f"{key} is {found!r}, {COVER} says {getattr(entry, key)!r}")


def _check_reruns(
    folder: Path, records: dict[str, RunRecord], problems: list[Problem]
) -> list[Comparison]:
    """Statements that somebody has trained a seed again: each as sound as a run, and in agreement."""
    comparisons = []
    for file in (f for f in entry_files(folder) if f.startswith(f"{REPRODUCED}/seed-")):
        if not file.endswith(".json"):
            continue
        statement = _read(read_statement, folder, file, problems)
        of = file.replace(REPRODUCED, "runs")
        if statement is None or of not in records:
            if statement:
                problems.append(Problem(file, f"is of a seed that the entry has not: {of}"))
            continue
        rerun, record = statement.rerun, records[of]
        found = [
            *_check_repeats(file, rerun, of, record),
            *_check_record(file, rerun),
            *_check_predictions(folder, file, rerun),
        ]
        if statement.record_sha256 != sha256_of((folder / of).read_bytes()):
            found.append(
                Problem(file, f"record_sha256 is not that of {of}: it is of another result")
            )
        problems += found
        if not found and not problems:
            stored, again = (
                read_predictions(folder / _predictions_of(f)) if r.test else None
                for f, r in ((of, record), (file, rerun))
            )
            comparison = compare(list(records.values()), stored, statement, again)
            comparisons.append(comparison)
            if not comparison.agrees:
                problems.append(Problem(file, f"does not agree with {of}: {comparison.result}"))
    return sorted(comparisons, key=lambda comparison: comparison.seed)


def _check_repeats(file: str, rerun: RunRecord, of: str, record: RunRecord) -> Iterator[Problem]:
    """Whether a rerun is of the same run on the same data, from code that somebody else can have."""
    for name in ("spec", "data"):
        one, other = (getattr(r, name).model_dump() for r in (record, rerun))
        for part in _differences(one, other):
            yield Problem(file, f"{name} differs from that of {of}: {part}")
    if rerun.environment.dirty:
        yield Problem(file, "made from a checkout with uncommitted changes")


def _check_record(file: str, record: RunRecord) -> Iterator[Problem]:
    """What must hold within one record."""
    spec, data, finished = record.spec, record.data, record.status == "finished"
    expected: dict[str, tuple[Any, Any]] = {
        "run_id": (record.run_id, spec.run_id),
        "protocol": (record.protocol, spec.task.protocol),
        "data.name": (data.name, spec.task.dataset),
        "data.synthetic": (data.synthetic, spec.task.synthetic),
        "data.fingerprint": (data.fingerprint, spec.data_fingerprint),
        "test_reads": (record.test_reads, int(finished)),
    }
    for key, (found, right) in expected.items():
        if found != right:
            yield Problem(file, f"{key} is {found!r}, must be {right!r}")
    for key in ("chosen_epoch", "validation", "test", "operations", "predictions_sha256"):
        there = getattr(record, key) is not None
        # class C holds nothing out
        if finished and not there and (key, record.protocol) != ("validation", "C"):
            yield Problem(file, f"{key} is missing in a finished run")
        if not finished and there and key in ("test", "predictions_sha256"):
            yield Problem(file, f"{key} must be null in a diverged run, whose test is never read")
    heldout = ("train", "valid") if record.protocol == "B" else ("valid",)
    for splits, counts in ((heldout, record.validation), (("test",), record.test)):
        yield from _check_counts(file, splits, counts, data)
    yield from _check_training(file, record)
    yield from _check_latency(file, record)
    if not 0 <= (record.chosen_epoch or 0) <= record.epochs_run <= spec.train.epochs:
        yield Problem(
            file,
            f"chosen_epoch {record.chosen_epoch} of epochs_run {record.epochs_run}"
            f" of train.epochs {spec.train.epochs} cannot be",
        )
    if record.chosen_epoch is not None and record.chosen_epoch < 1:
        yield Problem(file, "chosen_epoch counts from 1")
    numbers = {"n_parameters": record.n_parameters, "seconds_per_epoch": record.seconds_per_epoch}
    if record.operations:
        numbers |= {f"operations.spikes.{k}": v for k, v in record.operations.spikes.items()}
        numbers["operations.dense_macs"] = record.operations.dense_macs
        numbers["operations.effective_acs"] = record.operations.effective_acs
    for key, value in numbers.items():
        if value < 0:
            yield Problem(file, f"{key} is {value}, must be a number from 0")


def _check_training(file: str, record: RunRecord) -> Iterator[Problem]:
    """Whether the epoch follows from what was seen while training, by the rule of the protocol class."""
    chosen, found = record.chosen_epoch, record.history
    if found and len(found) != record.epochs_run:
        yield Problem(file, f"history has {len(found)} epochs, epochs_run is {record.epochs_run}")
    if record.protocol != "B" and record.folds:
        yield Problem(file, f"folds are of class B, the run is of class {record.protocol}")
    if record.status == "diverged" or chosen is None:
        return
    if record.protocol == "A" and found and record.validation:
        accuracies = [epoch.validation_accuracy or 0.0 for epoch in found]
        best = 1 + accuracies.index(max(accuracies))
        if chosen != best or accuracies[best - 1] != record.validation.accuracy:
            yield Problem(
                file,
                f"chosen_epoch is {chosen} with validation {record.validation.accuracy}, history has"
                f" {accuracies[best - 1]} in epoch {best} as its best",
            )
    if record.protocol == "B":
        if not record.folds or len({len(f) for f in record.folds.values()}) != 1:
            yield Problem(file, "folds of class B must be there, all with as many epochs")
        elif (best := best_epochs(record.folds)) != chosen or record.validation != all_folds(
            record.folds, chosen
        ):
            yield Problem(
                file, f"chosen_epoch and validation are not what folds give: {best} epochs"
            )
    if record.protocol != "A" and chosen != record.epochs_run:
        yield Problem(file, f"chosen_epoch is {chosen}, in class {record.protocol} it is the last")
    if record.protocol == "C" and record.epochs_run != record.spec.train.epochs:
        yield Problem(
            file, f"epochs_run is {record.epochs_run}, class C does {record.spec.train.epochs}"
        )


def _check_latency(file: str, record: RunRecord) -> Iterator[Problem]:
    """Whether accuracies over time end where the whole sample does."""
    if not record.latency:
        return
    times = [moment.seen_s for moment in record.latency]
    if times != sorted(set(times)) or times[-1] != record.spec.task.duration_s:
        yield Problem(file, f"latency.seen_s must rise to {record.spec.task.duration_s}: {times}")
    if record.latency[-1].test != record.test:
        yield Problem(
            file,
            f"latency ends with {_told(record.latency[-1].test)}, test is {_told(record.test)}",
        )
    if any(m.test.total != record.latency[-1].test.total for m in record.latency):
        yield Problem(file, "latency has moments with another number of samples")


def _check_counts(
    file: str, splits: tuple[str, ...], counts: Counts | None, data: DataIdentity
) -> Iterator[Problem]:
    if counts is None:
        return
    key = "test" if splits == ("test",) else "validation"
    split, size = " and ".join(splits), sum(data.n_samples.get(s, 0) for s in splits)
    if counts.total != size:
        yield Problem(file, f"{key}.total is {counts.total}, the {split} split has {size} samples")
    if counts.correct > counts.total:
        yield Problem(file, f"{key}.correct is {counts.correct} of {counts.total}")


def _check_predictions(folder: Path, file: str, record: RunRecord) -> Iterator[Problem]:
    proof = _predictions_of(file)
    path = folder / proof
    if record.status == "diverged":
        if path.exists():
            yield Problem(proof, "belongs to a diverged run, which has no predictions")
        return
    if not path.is_file():
        yield Problem(proof, f"is missing, the proof of {file}")
        return
    found = sha256_of(path.read_bytes())
    if found != record.predictions_sha256:
        yield Problem(proof, f"sha256 is {found}, {file} says {record.predictions_sha256}")
        return
    try:
        predictions = read_predictions(path)
    except SnnbenchError as error:
        yield Problem(proof, _without(folder, proof, error))
        return
    yield from _recount(file, proof, record, predictions)


def _recount(
    file: str, proof: str, record: RunRecord, predictions: Predictions
) -> Iterator[Problem]:
    """Compare labels and all counts of a record with those of the stored predictions."""
    labels, predicted, groups = predictions
    names, n_classes = record.data.groups.get("test", []), record.spec.task.n_classes
    for name, array, limit in (
        ("labels", labels, n_classes),
        ("predictions", predicted, n_classes),
        ("groups", groups, len(names)),
    ):
        if len(array) == 0 or int(np.max(array)) >= limit:
            yield Problem(proof, f"{name} must be below {limit}, and at least one")
            return
    if labels_sha256(labels, groups, names) != record.data.labels_sha256:
        yield Problem(proof, f"labels and groups are not those of data.labels_sha256 in {file}")
    counts = count_correct(predicted, labels)
    if counts != record.test:
        yield Problem(file, f"test is {_told(record.test)}, its predictions give {_told(counts)}")
    by_group = count_by_group(predicted, labels, groups, names)
    for name in sorted(by_group.keys() | record.test_by_group.keys()):
        told, right = record.test_by_group.get(name), by_group.get(name)
        if told != right:
            yield Problem(
                file, f"test_by_group.{name} is {_told(told)}, its predictions give {_told(right)}"
            )


def _without(folder: Path, file: str, error: SnnbenchError) -> str:
    """The message without the path, which the problem itself names."""
    return str(error).replace(f"{folder / file}: ", "").replace(f"{folder}/", "")


def _predictions_of(run_file: str) -> str:
    return run_file.replace("runs/", "predictions/").replace(".json", ".npz")


def _robustness_of(run_file: str) -> str:
    return run_file.replace("runs/", "robustness/")


def _told(counts: Counts | None) -> str:
    return f"{counts.correct} of {counts.total}" if counts else "nothing"


def _differences(
    expected: dict[str, Any], found: dict[str, Any], skip: Set[str] = frozenset(), prefix: str = ""
) -> Iterator[str]:
    """Dotted keys whose values differ, with both values."""
    for key in sorted((expected.keys() | found.keys()) - skip):
        one, other = expected.get(key), found.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, prefix=f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key} is {other!r}, not {one!r}"
