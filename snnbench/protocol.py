"""The protocol classes: who is heard, what chooses the epoch, and when the test split is opened.

    A  speakers held out     train -> fit, best epoch of valid               -> test
    B  leave one out         each speaker of train + valid in turn left out  -> how many epochs
                             train + valid -> fit, that many                 -> test
    C  fixed budget          train + valid -> fit, all epochs                -> test
    X  chosen on test        train -> fit, best epoch of test: an audit of A, never ranked

(docs/protocol.md.) The test split of a file is behind a `SealedTest`. What trains is given samples and has no
way to the file; what tests is given the seal, after everything has been chosen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from snnbench.data_prep.selection import Selection
from snnbench.errors import SnnbenchError
from snnbench.metrics import Counts, best_epochs
from snnbench.paths import write_text
from snnbench.record import sealed, sealed_json
from snnbench.run_lock import only_trainer
from snnbench.spec import RunSpec

if TYPE_CHECKING:
    from snnbench.data_prep.spikes import Spikes
    from snnbench.data_prep.store import SpikeDataset, SplitReader
    from snnbench.train import FitResult, LeftOut

FOLDS = "folds"
"""Folder, in that of a run of class B, with a folder for each speaker left out."""
FOLD_FILE = "validation.json"


class Fit(Protocol):
    """`snnbench.train.fit` with all but the samples, the folder and the number of epochs decided."""

    def __call__(
        self,
        train: Spikes,
        valid: Spikes | None,
        *,
        folder: Path,
        epochs: int | None = None,
        left_out: LeftOut | None = None,
    ) -> FitResult:
        """Train on some samples; `left_out` says of which fold of class B, for progress."""


class Learnt(NamedTuple):
    """What a protocol class comes to before the test."""

    result: FitResult
    folds: Mapping[str, Sequence[Counts]]
    """Class B: validation after each epoch, by the speaker left out; else empty."""
    folds_s: float = 0.0
    """Time of all epochs of all folds."""


class SealedTest:
    """The test split of an open file, which can be opened once.

    Raises
    ------
    SnnbenchError
        `open`, the second time.
    """

    def __init__(self, dataset: SpikeDataset) -> None:
        self._dataset = dataset
        self.reads = 0

    def open(self) -> SplitReader:
        """The samples; counted."""
        if self.reads:
            raise SnnbenchError(f"{self._dataset.path}: the test split was opened once already")
        self.reads += 1
        return self._dataset.split("test")


def learn(spec: RunSpec, dataset: SpikeDataset, folder: Path, fit: Fit) -> Learnt:
    """Train as the run's protocol class says; the test split plays no part.

    Parameters
    ----------
    spec
        Names the class in `spec.task.protocol`.
    dataset
        Open file with training and validation split.
    folder
        Where training keeps its files; class B keeps those of its folds below.
    fit
        Trains; called once, or in class B once for every speaker before.

    Raises
    ------
    SnnbenchError
        Class B, and there are fewer than two speakers.
    """
    if spec.task.protocol != "B":
        return Learnt(fit(*samples_to_learn(spec, dataset), folder=folder), {})
    train, valid = dataset.split("train"), dataset.split("valid")
    everything = Selection([train, valid])
    folds, diverged = leave_one_out(dataset, folder, fit)
    if diverged is not None:
        return Learnt(diverged, {})
    counts = {name: fold.validation for name, fold in folds.items()}
    result = fit(everything, None, folder=folder, epochs=best_epochs(counts))
    return Learnt(result, counts, sum(fold.seconds for fold in folds.values()))


def samples_to_learn(spec: RunSpec, dataset: SpikeDataset) -> tuple[Spikes, Spikes | None]:
    """What a run of class A or C learns from, and what it chooses the epoch on: in C nothing is held out."""
    train, valid = dataset.split("train"), dataset.split("valid")
    if spec.task.protocol == "A":
        return train, valid
    assert spec.task.protocol == "C"
    return Selection([train, valid]), None


class Fold(BaseModel):
    """What came of training without one speaker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: tuple[Counts, ...]
    """On that speaker, after each epoch."""
    seconds: float
    """Of all epochs."""


def speakers(dataset: SpikeDataset) -> list[str]:
    """Whom class B leaves out in turn: everybody there is to learn from.

    Raises
    ------
    SnnbenchError
        There are fewer than two.
    """
    heard = (dataset.split("train").groups, dataset.split("valid").groups)
    names = [dataset.header.groups[g] for g in sorted({int(g) for part in heard for g in part})]
    if len(names) < 2:
        raise SnnbenchError(
            f"{dataset.path}: protocol class B leaves one speaker out at a time, and there is only"
            f" {', '.join(names) or 'none'} to learn from; take class A or C"
        )
    return names


def fold_file(folder: Path, speaker: str) -> Path:
    """What the run in `folder` keeps of a finished fold."""
    # a name is the data file's own text: as a folder it stays one, below FOLDS
    return folder / FOLDS / quote(speaker, safe=" ").replace(".", "%2E") / FOLD_FILE


def leave_one_out(
    dataset: SpikeDataset, folder: Path, fit: Fit
) -> tuple[dict[str, Fold], FitResult | None]:
    """Every speaker left out in turn; also the result of a fold that diverged, which is then the last."""
    folds: dict[str, Fold] = {}
    for speaker in speakers(dataset):
        # somebody else may be at it (`snnbench.seeds`)
        with only_trainer(fold_file(folder, speaker).parent, wait=True):
            fold = leave_out(speaker, dataset, folder, fit)
        if not isinstance(fold, Fold):
            return folds, fold
        folds[speaker] = fold
    return folds, None


def leave_out(speaker: str, dataset: SpikeDataset, folder: Path, fit: Fit) -> Fold | FitResult:
    """One fold of the run in `folder`, kept there; the result where it diverged.

    A fold that is finished is not done again, and one that was stopped goes on. The caller holds its folder.
    """
    from snnbench.train import LeftOut

    path = fold_file(folder, speaker)
    fold = _finished_fold(path)
    if fold is None:
        everybody = speakers(dataset)
        group = dataset.header.groups.index(speaker)
        present = {dataset.header.groups.index(name) for name in everybody}
        parts = [dataset.split("train"), dataset.split("valid")]
        result = fit(
            Selection(parts, present - {group}),
            Selection(parts, {group}),
            folder=path.parent,
            left_out=LeftOut(speaker, everybody.index(speaker) + 1, len(everybody)),
        )
        if result.status == "diverged":
            return result
        validation = tuple(r.valid for r in result.history if r.valid is not None)
        fold = Fold(validation=validation, seconds=result.history[-1].seconds_so_far)
        write_text(path, json.dumps(sealed(fold.model_dump(mode="json"))) + "\n")
    return fold


def _finished_fold(path: Path) -> Fold | None:
    if not path.is_file():
        return None
    try:
        return Fold.model_validate(sealed_json(path.read_text("utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise SnnbenchError(
            f"{path}: cannot be read ({why}); remove {path.parent} to do this fold again"
        ) from None


def picked_on_test(dataset: SpikeDataset, folder: Path, fit: Fit) -> FitResult:
    """Class X: the same training, but the epoch is chosen on the test split.

    Validation data have no influence on weights, so every epoch is that of the honest run.
    """
    return fit(dataset.split("train"), dataset.split("test"), folder=folder)
