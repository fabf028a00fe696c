"""What a leaderboard shows: verified entries as rows, placed, with the figures of every column."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from snnbench.leaderboards.check_record import Problem
from snnbench.leaderboards.copies import copied_entry
from snnbench.leaderboards.entries import Root, Tasks, entry_folders
from snnbench.leaderboards.rank import Contender, Standing, place
from snnbench.leaderboards.reproduction import Comparison
from snnbench.leaderboards.verify import Verified, verify_entry
from snnbench.metrics import Summary, summarise
from snnbench.record import DataIdentity, Entry, RunRecord, sha256_of
from snnbench.robustness import Robustness, over_seeds
from snnbench.spec import TaskSpec


@dataclass(frozen=True)
class Row:
    """One verified entry in its place."""

    entry: Entry
    records: tuple[RunRecord, ...]
    pins: dict[str, Any]
    origin: str
    """Which board it comes from: shipped, local, or board for a folder that was named."""
    standing: Standing = "unranked"
    rank: int | None = None
    folder: Path | None = None
    """Where the entry lies with its predictions."""
    reruns: tuple[Comparison, ...] = ()
    """Seeds that somebody has trained again, all in agreement."""
    audits: dict[int, Robustness] = field(default_factory=dict)
    """By seed, of the seeds that were tested on changed samples."""

    @property
    def key(self) -> str:
        """Unique within a table, and usable as an HTML id."""
        return f"{self.entry.name}-{self.origin}"

    @property
    def status(self) -> str:
        """`reproduced` once somebody has trained a seed again and it came out, else `self-reported`."""
        return "reproduced" if self.reruns else "self-reported"

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Test accuracy per seed, 0 to 1; a diverged seed has none right."""
        return tuple(r.test.accuracy if r.test else 0.0 for r in self.records)

    @property
    def accuracy(self) -> Summary:
        """Over all seeds."""
        return summarise(self.accuracies)

    @property
    def robustness(self) -> Summary | None:
        """Share of the accuracy above chance that is left on changed samples, over the seeds tested on them.

        None where no seed was, or where one is not above chance on clean samples.
        """
        return over_seeds([audit.robustness for audit in self.audits.values()])

    @property
    def n_diverged(self) -> int:
        """Seeds that diverged."""
        return sum(r.status == "diverged" for r in self.records)

    @property
    def spikes(self) -> Summary | None:
        """Spikes of all hidden layers per test sample, over the finished seeds; None where none spikes."""
        found = [r.operations.spikes for r in self.records if r.operations]
        totals = [math.fsum(spikes.values()) for spikes in found if spikes]
        return summarise(totals) if totals else None

    @property
    def n_parameters(self) -> int:
        """Trained parameters."""
        return self.records[0].n_parameters

    @property
    def seconds_per_epoch(self) -> float:
        """Median over seeds."""
        return statistics.median(r.seconds_per_epoch for r in self.records)

    @property
    def training_s(self) -> float | None:
        """Whole training, median over the seeds whose records tell it; None where none does."""
        told = [r.training_s for r in self.records if r.training_s is not None]
        return statistics.median(told) if told else None

    @property
    def data_agrees(self) -> str:
        """`agrees` where every pin of the task does, else how many are pinned."""
        agreeing = sum(state == "agrees" for state in self.pins.values())
        if agreeing == len(self.pins):
            return "agrees"
        return f"{agreeing} of {len(self.pins)} pinned" if agreeing else "not pinned"

    @property
    def place(self) -> str:
        """Rank as text."""
        return str(self.rank) if self.rank else {"provisional": "prov."}.get(self.standing, "–")

    def by_group(self) -> dict[str, float]:
        """Accuracy per test group (speaker) over all finished seeds, 0 to 1."""
        finished = [r for r in self.records if r.test]
        return {
            name: statistics.fmean(r.test_by_group[name].accuracy for r in finished)
            for name in sorted({n for r in finished for n in r.test_by_group})
        }

    def as_data(self) -> dict[str, Any]:
        """The row for `--json` and CSV; null where there is no figure."""
        accuracy, spikes, robustness = self.accuracy, self.spikes, self.robustness
        return {
            "rank": self.rank,
            "standing": self.standing,
            "entry": self.entry.name,
            "model": self.entry.model,
            "accuracy": accuracy.mean,
            "accuracy_sd": _number(accuracy.sd),
            "accuracy_half_width_95": _number(accuracy.half_width_95),
            "seeds": len(self.records),
            "diverged": self.n_diverged,
            "robustness": robustness.mean if robustness else None,
            "robustness_sd": _number(robustness.sd) if robustness else None,
            "robustness_seeds": len(self.audits),
            "spikes_per_sample": spikes.mean if spikes else None,
            "parameters": self.n_parameters,
            "seconds_per_epoch": self.seconds_per_epoch,
            "status": self.status,
            "data": self.data_agrees,
            "fingerprint": self.records[0].data.fingerprint,
            "origin": self.origin,
        }


@dataclass(frozen=True)
class Table:
    """Rows that compare: one task version, one protocol, one data set."""

    task: TaskSpec
    data: DataIdentity
    rows: tuple[Row, ...]

    @property
    def has_robustness(self) -> bool:
        """Whether any row was tested on changed samples."""
        return any(row.audits for row in self.rows)

    @property
    def key(self) -> str:
        """Unique on a page, and usable as an HTML id."""
        return f"{self.task.name}-v{self.task.version}-{data_digest(self.data)}"

    def as_data(self) -> dict[str, Any]:
        """The table for `--json`."""
        return {
            "task": self.task.name,
            "version": self.task.version,
            "title": self.task.title,
            "synthetic": self.task.synthetic,
            "protocol": self.task.protocol,
            "min_seeds": self.task.min_seeds,
            "data": self.data.model_dump(
                include={"source_sha256", "recipe_sha256", "split_sha256", "labels_sha256"}
            ),
            "rows": [row.as_data() for row in self.rows],
        }


def verify_roots(roots: Iterable[Root], tasks: Tasks) -> list[tuple[str, Verified]]:
    """Origin and verification of every entry of the boards; of one board, no entry may be another again.

    Boards are not compared with each other: whoever trains a row of ours again has its runs on a board of
    their own, and if all goes well the same predictions.
    """
    found = []
    for root in roots:
        board = [verify_entry(folder, tasks) for folder in entry_folders(root.path)]
        found += [(root.origin, with_copies(entry, board)) for entry in board]
    return found


def with_copies(entry: Verified, board: Iterable[Verified]) -> Verified:
    """The entry with a problem for every other one of its task that has a run of it.

    Both of them have the problem: which one was first, no file can tell.
    """
    problems = [
        Problem("runs", f"{shared}, is in {other.label}, too; a run stands on a board once")
        for other in board
        if other.folder != entry.folder
        and other.folder.parent.name == entry.folder.parent.name
        and (shared := copied_entry(entry.traces, other.traces))
    ]
    return replace(entry, problems=(*entry.problems, *problems))


def make_tables(verified: Iterable[tuple[str, Verified]]) -> list[Table]:
    """Tables of the entries that verify, by task, newest version first; others are left out."""
    comparable: dict[tuple[str, int, str, str], list[Row]] = {}
    for origin, found in verified:
        if found.ok and found.entry:
            first = found.records[0]
            task = first.spec.task
            key = (task.name, -task.version, first.protocol, data_digest(first.data))
            row = Row(
                found.entry,
                found.records,
                dict(found.pins),
                origin,
                folder=found.folder,
                reruns=found.reruns,
                audits=found.audits,
            )
            comparable.setdefault(key, []).append(row)
    return [
        Table(rows[0].records[0].spec.task, rows[0].records[0].data, placed(rows))
        for _, rows in sorted(comparable.items())
    ]


def placed(rows: list[Row]) -> tuple[Row, ...]:
    """Rows of one table in their places, best first."""
    by_key = {row.key: row for row in rows}
    contenders = [
        Contender(row.key, row.accuracies, row.entry.provisional, bool(row.reruns)) for row in rows
    ]
    places = place(contenders, rows[0].records[0].spec.task.min_seeds)
    return tuple(replace(by_key[p.name], standing=p.standing, rank=p.rank) for p in places)


def data_digest(data: DataIdentity) -> str:
    """Short name of a data set: equal for equal sources, recipe, split and labels."""
    parts = (data.source_sha256, data.recipe_sha256, data.split_sha256, data.labels_sha256)
    return sha256_of(" ".join(parts).encode())[:8]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
