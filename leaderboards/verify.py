"""Verification of an entry from its files alone: no torch, no data set, no GPU.

What is proved: no byte differs from what was added; every run is of one task, model and data set and
differs in its seed only; run ids follow from the specifications; every count follows from the stored
predictions and labels; within a record, whatever follows from something else does (check_record.py); seeds
are 0 to n-1, and none is a copy of another (copies.py); the data are those the task pins; counts on changed
samples (robustness) fit the run. What is not: that training gave these predictions, or the network those
counts. For that somebody has to train again: a statement of such a rerun is checked like a run, and has to
agree with the seed it repeats (reproduction.py). docs/protocol.md lists what is not caught here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Set
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from snnbench.errors import SnnbenchError
from snnbench.leaderboards.check_record import (
    ROUNDING,
    Problem,
    check_record,
    input_spikes,
    told,
)
from snnbench.leaderboards.copies import Traces, copied_seeds, traces_of
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
from snnbench.metrics import count_by_group, count_correct
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
    traces: tuple[Traces, ...] = ()
    """Of every run: what tells a copy of it."""
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
    traces: dict[str, Traces] = {}
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
            problems += check_record(file, record)
            predictions = _read_proof(folder, file, record, problems)
            if predictions:
                problems += _recount(file, _predictions_of(file), record, predictions)
            traces[file] = traces_of(record, predictions)
            tested = _robustness_of(file)
            if tested in files and (audit := _read(read_robustness, folder, tested, problems)):
                audits[record.spec.seed] = audit
                problems += [Problem(tested, what) for what in check_robustness(audit, record)]
        problems += _check_seeds(records, traces, entry)
    elif not problems:
        problems.append(Problem("runs", "there is no run"))
    reruns = _check_reruns(folder, records, problems)
    runs = {f for f in files if f.startswith(("runs/", f"{REPRODUCED}/")) and f.endswith(".json")}
    of_runs = {f for f in files if f.endswith(".npz") or f.startswith("robustness/")}
    of_runs -= {of(run) for run in runs for of in (_predictions_of, _robustness_of)}
    problems += [Problem(f, "belongs to no run") for f in sorted(of_runs)]
    by_seed = sorted(records.values(), key=lambda record: record.spec.seed)
    return Verified(
        folder,
        entry,
        tuple(by_seed),
        pins,
        tuple(problems),
        tuple(traces.values()),
        tuple(reruns),
        audits,
    )


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


def missing_seeds(seeds: Collection[int]) -> list[int]:
    """Those that seeds from 0 to the largest one would have besides."""
    return sorted(set(range(max(seeds) + 1)) - set(seeds))


def _check_seeds(
    records: dict[str, RunRecord], traces: dict[str, Traces], entry: Entry | None
) -> Iterator[Problem]:
    """What must hold between the seeds of an entry: none lacks, none is another one again."""
    missing = missing_seeds([record.spec.seed for record in records.values()])
    if missing and not (entry and entry.provisional):
        yield Problem(
            "runs", f"seeds are 0 to n-1, all of them: {', '.join(map(str, missing))} is missing"
        )
    files = list(traces)
    for i, j, shared in copied_seeds(list(traces.values())):
        yield Problem(files[j], f"has {shared}, like {files[i]}; every seed is a run of its own")
    finished = [(f, r, r.footprint) for f, r in records.items() if r.status == "finished"]
    for file, record, footprint in finished[1:]:
        first, reference, size = finished[0]
        mine, other = input_spikes(record), input_spikes(reference)
        if mine is not None and other is not None and not isclose(mine, other, rel_tol=ROUNDING):
            yield Problem(
                file,
                f"operations.effective_acs tells of {mine} input spikes a sample, {first} of {other}",
            )
        if footprint and size and footprint.n_bytes != size.n_bytes:
            yield Problem(
                file, f"footprint.n_bytes is {footprint.n_bytes}, {first} has {size.n_bytes}"
            )


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
    if entry and record.environment.dirty and not entry.provisional:
        yield Problem(
            file, f"was made with uncommitted changes, so {COVER} has to say provisional = true"
        )
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
        found = [*_check_repeats(file, rerun, of, record), *check_record(file, rerun)]
        again = _read_proof(folder, file, rerun, found)
        if again:
            found += _recount(file, _predictions_of(file), rerun, again)
        if statement.record_sha256 != sha256_of((folder / of).read_bytes()):
            found.append(
                Problem(file, f"record_sha256 is not that of {of}: it is of another result")
            )
        problems += found
        if not found and not problems:
            stored = read_predictions(folder / _predictions_of(of)) if record.test else None
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


def _read_proof(
    folder: Path, file: str, record: RunRecord, problems: list[Problem]
) -> Predictions | None:
    """The stored predictions of a run, if they are there and the ones that its record means."""
    proof = _predictions_of(file)
    path = folder / proof
    if record.status == "diverged":
        if path.exists():
            problems.append(Problem(proof, "belongs to a diverged run, which has no predictions"))
        return None
    if not path.is_file():
        problems.append(Problem(proof, f"is missing, the proof of {file}"))
        return None
    found = sha256_of(path.read_bytes())
    if found != record.predictions_sha256:
        problems.append(
            Problem(proof, f"sha256 is {found}, {file} says {record.predictions_sha256}")
        )
        return None
    return _read(read_predictions, folder, proof, problems)


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
        yield Problem(file, f"test is {told(record.test)}, its predictions give {told(counts)}")
    by_group = count_by_group(predicted, labels, groups, names)
    for name in sorted(by_group.keys() | record.test_by_group.keys()):
        found, right = record.test_by_group.get(name), by_group.get(name)
        if found != right:
            yield Problem(
                file, f"test_by_group.{name} is {told(found)}, its predictions give {told(right)}"
            )


def _without(folder: Path, file: str, error: SnnbenchError) -> str:
    """The message without the path, which the problem itself names."""
    return str(error).replace(f"{folder / file}: ", "").replace(f"{folder}/", "")


def _predictions_of(run_file: str) -> str:
    return run_file.replace("runs/", "predictions/").replace(".json", ".npz")


def _robustness_of(run_file: str) -> str:
    return run_file.replace("runs/", "robustness/")


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
