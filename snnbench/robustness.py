"""What a run's robustness file says, and the one number that sums it up.

`robustness.json` stands in the run folder beside the record, which it leaves as it is: a later audit of
a finished run on changed test samples (`snnbench.corruptions`). The reader accepts only what the schema
knows, whole corruptions with all their levels and seeds; corruptions that are still missing are tested
when the command is called again. A leaderboard reads these files, too, so nothing here needs torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from snnbench.corruption_spec import CORRUPTIONS, settings_of
from snnbench.errors import SnnbenchError
from snnbench.metrics import Counts, Summary, summarise, together
from snnbench.paths import write_text
from snnbench.record import Environment, RunRecord, sealed, sealed_json
from snnbench.spec_base import describe_validation_error

ROBUSTNESS_FILE = "robustness.json"
_STANDARD_ERRORS = 3


class Point(Counts):
    """Predictions on the whole test split, changed by one corruption at one level and seed."""

    level: float = Field(gt=0, allow_inf_nan=False)
    seed: int = Field(ge=0)


class Robustness(BaseModel):
    """A run on changed test samples, as counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal["snnbench-robustness/1"] = "snnbench-robustness/1"
    version: Literal["corruptions/1"] = "corruptions/1"
    """Of levels, seeds and random numbers (`snnbench.corruption_spec.VERSION`)."""
    run_id: str
    checkpoint_sha256: str
    data_fingerprint: str
    n_classes: int = Field(gt=1)
    environment: Environment
    """Where the file was begun."""
    clean: Counts
    """Of the samples as they are, predicted here."""
    different_predictions: int = Field(ge=0)
    """Of `clean`, those that differ from the record's: 0 on the same processor and engine."""
    speakers: dict[Literal["trained", "validated", "unseen"], Counts] = {}
    """Clean predictions by what the run knew of the speaker; empty where the data has no speakers."""
    points: dict[str, list[Point]] = {}
    """By corruption, level by level and seed by seed."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name, points in self.points.items():
            if name not in CORRUPTIONS:
                raise ValueError(f"{name!r} is no corruption of {self.version}")
            wanted = [(s.level, s.seed) for s in settings_of(name)]
            if [(p.level, p.seed) for p in points] != wanted:
                raise ValueError(f"{name}: levels and seeds are not those of {self.version}")
        counts = [self.clean, *(p for points in self.points.values() for p in points)]
        if any(c.total != self.clean.total or c.correct > c.total for c in counts):
            raise ValueError("all corruptions are tested on all samples, and no count is larger")
        return self

    @property
    def complete(self) -> bool:
        """Whether every corruption has been tested."""
        return self.points.keys() == CORRUPTIONS.keys()

    @property
    def chance(self) -> float:
        """Accuracy of a network that tells nothing apart, whatever the shares of the classes.

        One that gives the same class for every sample is right as often as that class occurs: over all
        classes that it may give, 1 / number of classes on average.
        """
        return 1 / self.n_classes

    def accuracies(self, corruption: str) -> dict[float, float]:
        """Mean accuracy over seeds by level, the clean one as level 0."""
        by_level: dict[float, list[float]] = {0.0: [self.clean.accuracy]}
        for point in self.points[corruption]:
            by_level.setdefault(point.level, []).append(point.accuracy)
        return {level: math.fsum(values) / len(values) for level, values in by_level.items()}

    def retained(self, corruption: str) -> float | None:
        """Share of the accuracy above chance that is left, mean over levels (without 0) and seeds.

        1 is a network that notices nothing, 0 one that only guesses. Not cut off at 0: what is below
        chance by luck balances what is above by luck. None where the clean accuracy is not above chance
        by three standard errors, so that the quotient would be noise.
        """
        error = math.sqrt(self.chance * (1 - self.chance) / self.clean.total)
        above = self.clean.accuracy - self.chance
        if above <= _STANDARD_ERRORS * error:
            return None
        points = self.points[corruption]
        return math.fsum(p.accuracy - self.chance for p in points) / len(points) / above

    @property
    def robustness(self) -> float | None:
        """The one number: mean of `retained` over all corruptions, each with equal weight.

        None before all are tested, and where `retained` is.
        """
        values = [self.retained(name) for name in CORRUPTIONS] if self.complete else [None]
        told = [value for value in values if value is not None]
        return math.fsum(told) / len(told) if len(told) == len(values) else None


def over_seeds(values: Sequence[float | None]) -> Summary | None:
    """Of one number of several runs; None where one of them has none, or there is no run."""
    told = [value for value in values if value is not None]
    return summarise(told) if told and len(told) == len(values) else None


def count_by_acquaintance(
    record: RunRecord, by_group: dict[str, Counts], no_groups: str
) -> dict[Literal["trained", "validated", "unseen"], Counts]:
    """Counts of the test speakers the network learnt from, chose its epoch by, and never met.

    Empty where the data set has no speakers, which it says by a single group called `no_groups`.
    """
    known = record.data.groups
    if {g for groups in known.values() for g in groups} == {no_groups}:
        return {}
    counts: dict[Literal["trained", "validated", "unseen"], list[Counts]] = {}
    for group, count in by_group.items():
        if group in known.get("train", ()):
            counts.setdefault("trained", []).append(count)
        elif group in known.get("valid", ()):
            counts.setdefault("validated", []).append(count)
        else:
            counts.setdefault("unseen", []).append(count)
    return {name: together(of) for name, of in counts.items()}


def write_robustness(path: Path, robustness: Robustness) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(sealed(robustness.model_dump(mode="json")), indent=1) + "\n")


def robustness_of_run(folder: Path) -> Robustness | None:
    """What a run folder holds, finished or begun; SnnbenchError says what to do with a damaged file."""
    path = folder / ROBUSTNESS_FILE
    try:
        return read_robustness(path) if path.is_file() else None
    except SnnbenchError as error:
        raise SnnbenchError(
            f"{error}; move it away, and test again with `snnbench eval {folder} --corrupt`"
        ) from None


def read_robustness(path: Path) -> Robustness:
    """Read and validate; SnnbenchError names the file and what does not fit."""
    try:
        data = sealed_json(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SnnbenchError(f"{path}: cannot be read: {error}") from None
    try:
        return Robustness.model_validate(data)
    except ValidationError as error:
        raise SnnbenchError(describe_validation_error(Robustness, error, str(path))) from None
