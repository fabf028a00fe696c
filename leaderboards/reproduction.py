"""Reruns of an entry's seeds: the statement of each, and when a rerun agrees.

    <entry>/reproduced/seed-N.json       Statement: who trained seed N again, and the whole record of that
                       seed-N.npz        the rerun's own predictions; none if it diverged
                       MANIFEST.sha256   hashes of the above

Statements come after an entry and from others than its authors, so they stand outside its manifest: an
entry has the same bytes before and after. What a statement claims (how many predictions differ, whether
that is within tolerance) is nowhere written down: whoever verifies computes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from snnbench.errors import SnnbenchError
from snnbench.metrics import Counts, summarise
from snnbench.paths import write_text
from snnbench.record import Predictions, RunRecord, sealed, sealed_json
from snnbench.spec_base import describe_validation_error

LARGEST_TOLERANCE = 0.05
"""However much the seeds of an entry differ, or however few test samples there are."""
_Z_95 = 1.96


class Statement(BaseModel):
    """Somebody has trained one seed of an entry again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal["snnbench-reproduction/1"] = "snnbench-reproduction/1"
    by: str = Field(min_length=1, max_length=200)
    """Who did; a person or an organisation."""
    record_sha256: str
    """Of the entry's runs/seed-N.json, so that a statement fits one result only."""
    rerun: RunRecord
    """What came out, and where."""


class Comparison(NamedTuple):
    """A rerun beside what the entry has of that seed."""

    by: str
    seed: int
    stored: Counts | None
    """None: diverged."""
    found: Counts | None
    n_different: int
    """Predictions that are not the stored ones."""
    tolerance: float
    """Largest difference of accuracies that agrees, 0 to 1."""
    device: str
    commit: str | None
    started_at: str

    @property
    def identical(self) -> bool:
        """Whether every prediction came out again."""
        return self.n_different == 0 and (self.stored is None) == (self.found is None)

    @property
    def difference(self) -> float | None:
        """Accuracy of the rerun minus the stored one; None where either diverged."""
        if self.stored is None or self.found is None:
            return None
        return self.found.accuracy - self.stored.accuracy

    @property
    def agrees(self) -> bool:
        """Whether the rerun bears the entry out."""
        if self.stored is None or self.found is None:
            return self.identical
        # as counts, because 0.8 - 0.75 is more than 0.05
        apart = abs(self.found.correct - self.stored.correct)
        return apart <= self.tolerance * self.stored.total

    @property
    def result(self) -> str:
        """For example "402 of 600, every prediction the same"."""
        if self.stored is None or self.found is None:
            told = {True: "diverged", False: "finished"}
            return f"{told[self.found is None]}, where the entry {told[self.stored is None]}"
        counts = f"{self.found.correct} of {self.found.total}"
        if self.identical:
            return f"{counts}, every prediction the same"
        return (
            f"{counts}, where the entry has {self.stored.correct}:"
            f" {100 * (self.difference or 0):+.2f} points, ±{100 * self.tolerance:.2f} agree;"
            f" {self.n_different} predictions differ"
        )


def tolerance(records: Sequence[RunRecord]) -> float:
    """By how much the accuracy of a rerun may differ from that of its seed.

    On the same processor and engine every prediction comes out again. Elsewhere sums are rounded in other
    ways, and training carries the last bits far: at worst the rerun is like another seed. The difference
    of two draws has sqrt(2) times the standard deviation of one, which is at least that over seeds and
    that of counting so many test samples; 95 % of differences are within 1.96 of it. 0.05 at most.

    Parameters
    ----------
    records : all seeds of the entry; diverged ones play no part.
    """
    accuracies = [r.test.accuracy for r in records if r.test]
    totals = [r.test.total for r in records if r.test]
    if not accuracies:
        return 0.0
    mean, sd, _ = summarise(accuracies)
    binomial = math.sqrt(mean * (1 - mean) / totals[0])
    spread = binomial if math.isnan(sd) else max(sd, binomial)
    return min(LARGEST_TOLERANCE, _Z_95 * math.sqrt(2) * spread)


def compare(
    records: Sequence[RunRecord],
    stored: Predictions | None,
    statement: Statement,
    found: Predictions | None,
) -> Comparison:
    """Compare a rerun with its seed among `records`; predictions are None where a run diverged."""
    rerun = statement.rerun
    record = next(r for r in records if r.spec.seed == rerun.spec.seed)
    if stored is None or found is None:
        n_different = 0
    else:
        n_different = int((stored.predictions != found.predictions).sum())
    return Comparison(
        by=statement.by,
        seed=rerun.spec.seed,
        stored=record.test,
        found=rerun.test,
        n_different=n_different,
        tolerance=tolerance(records),
        device=rerun.environment.device,
        commit=rerun.environment.commit,
        started_at=rerun.started_at,
    )


def write_statement(path: Path, statement: Statement) -> None:
    """Write indented JSON with its seal, whole or not at all."""
    data = sealed(statement.model_dump(mode="json"))
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def read_statement(path: Path) -> Statement:
    """Read and validate; SnnbenchError names the file and what does not fit."""
    try:
        data = sealed_json(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SnnbenchError(f"{path}: cannot be read: {error}") from None
    try:
        return Statement.model_validate(data)
    except ValidationError as error:
        raise SnnbenchError(describe_validation_error(Statement, error, str(path))) from None
