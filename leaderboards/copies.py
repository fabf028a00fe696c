"""Whether two runs are one run under two names: another seed, another entry, another model's name.

Whoever copies a run has to change its name, and with it what names it: seed, run id, the file's hash. What
was measured stays, unless it is forged, too. Honest runs of two seeds never share it, with exceptions that
are made here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from snnbench.record import Predictions, RunRecord
from snnbench.sizes import layer_sizes

TELLING_ERRORS = 20
"""Fewer wrong samples than these may well be the same ones in honest runs: of the entries that ship, two
seeds of randman/ff-lif have every sample right. With more, the closest two of one entry differ in 40."""


class Traces(NamedTuple):
    """What a run leaves behind that no other run does; None where it tells nothing."""

    run_id: str
    checkpoint: str | None
    """A hash of weights and specification, so of the seed, too."""
    learning: tuple[object, ...] | None
    """Losses and accuracies of all epochs."""
    answers: str | None
    """A hash of the predictions."""


def traces_of(record: RunRecord, predictions: Predictions | None) -> Traces:
    """Of a run and its predictions, which are None for a diverged one."""
    learning = tuple(
        (epoch.loss, epoch.train_accuracy, epoch.validation_accuracy) for epoch in record.history
    )
    if len({epoch.loss for epoch in record.history}) < 2:
        # networks that stay silent have the loss of guessing, all of them
        learning = ()
    return Traces(
        record.run_id,
        record.checkpoint_sha256,
        learning or None,
        _answers(record, predictions) if predictions else None,
    )


def _answers(record: RunRecord, predictions: Predictions) -> str | None:
    answers = predictions.predictions
    wrong = int((answers != predictions.labels).sum())
    if wrong < TELLING_ERRORS or len(np.unique(answers)) < 2:
        return None
    if len(layer_sizes(record.spec)) < 2:
        return None  # a single layer has one optimum, in which all seeds may end
    return hashlib.sha256(np.ascontiguousarray(answers, dtype="<u2").tobytes()).hexdigest()


def in_common(one: Traces, other: Traces) -> str | None:
    """In words, what two runs have in common that two runs cannot have; None where there is nothing."""
    if one.run_id == other.run_id:
        return f"the same run, {one.run_id}"
    if one.checkpoint is not None and one.checkpoint == other.checkpoint:
        return "the same weights (checkpoint_sha256)"
    if one.learning is not None and one.learning == other.learning:
        return "the same learning curve (history)"
    if one.answers is not None and one.answers == other.answers:
        return "the same predictions"
    return None


def copied_seeds(traces: Sequence[Traces]) -> Iterator[tuple[int, int, str]]:
    """Places of any two runs of one entry that are one, and what tells so."""
    for (i, one), (j, other) in combinations(enumerate(traces), 2):
        if shared := in_common(one, other):
            yield i, j, shared


def copied_entry(mine: Sequence[Traces], others: Sequence[Traces]) -> str | None:
    """What any run of one entry has in common with any of another; None where there is nothing."""
    return next((w for one in mine for other in others if (w := in_common(one, other))), None)
