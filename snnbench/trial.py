"""One trial of a sweep: train with given values, and say how it ended.

    spec of each seed, train, valid -> fit -> best validation accuracy (and work) -> outcome

A trial knows nothing of searching, of where results are kept or of other trials, and has no way to test
data. What goes wrong in it is an outcome with a message, never an exception: a sweep goes on. Nothing of
the specification is changed on the way, a batch that does not fit into memory least of all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal, NamedTuple

from snnbench.bench import epoch_metrics
from snnbench.memory import OutOfMemory
from snnbench.seeding import resolve_device
from snnbench.spec import RunSpec
from snnbench.tracking import SystemUse, shown_files

if TYPE_CHECKING:
    import torch

    from snnbench.data_prep.spikes import Spikes
    from snnbench.train import EpochReport, FitResult

State = Literal["complete", "pruned", "diverged", "oom", "error"]


@dataclass(frozen=True)
class TrialJob:
    """A trial to run, in words that another process understands."""

    number: int
    """Of the trial in its study, from 0."""
    specs: tuple[RunSpec, ...]
    """The same run with one seed or several, which are trained one after another."""
    device: str
    """As in `snnbench.seeding.resolve_device`."""
    measure: bool = False
    """Whether spikes and operations on the validation split are wanted."""
    show: bool = False
    """Whether the outcome brings the files that MLflow shows."""


class TrialEpoch(NamedTuple):
    """What is told after each epoch."""

    seed: int
    """Which of the job's specs, from 0."""
    epoch: int
    """From 1."""
    epochs: int
    accuracy: float
    """On the validation split."""
    metrics: Mapping[str, float]
    """The same and more, as MLflow shows it."""


class TrialOutcome(NamedTuple):
    """How a trial ended. Figures are means over its seeds, where they are complete."""

    state: State
    """complete; pruned, because `stopped` said so; diverged, where a seed's loss was not finite; oom, out of
    memory; error."""
    accuracy: float | None = None
    """Validation accuracy at the chosen epoch."""
    spikes: float | None = None
    """Hidden spikes of a validation sample at the chosen epoch, where they were to be measured."""
    operations: float | None = None
    """Effective accumulates of a validation sample, likewise."""
    epochs: int = 0
    """Of all seeds."""
    seconds: float = 0.0
    message: str = ""
    """Of a trial that diverged, ran out of memory or failed: what happened."""
    files: Mapping[str, bytes] = {}
    """Of the first seed, by name, where they were to be shown."""


class _Stopped(Exception):
    """Whoever watches has seen enough."""


def run_trial(
    job: TrialJob,
    train: Spikes,
    valid: Spikes,
    tell: Callable[[TrialEpoch], None],
    stopped: Callable[[], bool],
) -> TrialOutcome:
    """Run a trial to its end, whatever that is.

    Parameters
    ----------
    job : what to train, and where to compute.
    train, valid : spikes to learn from, and to choose the epoch and measure on.
    tell : called after each epoch.
    stopped : asked after each epoch; training ends where it says so.

    Raises
    ------
    Exception
        Of `tell` or `stopped`.
    """
    trial = _Trial(job, tell, stopped)
    began = time.perf_counter()
    outcome = TrialOutcome("pruned")
    with tempfile.TemporaryDirectory(prefix="snnbench-trial-") as name:
        try:
            outcome = trial.run(train, valid, Path(name))
        except _Stopped:
            pass
        except Exception as error:
            if trial.telling:
                raise
            state: State = "oom" if isinstance(error, OutOfMemory) else "error"
            outcome = TrialOutcome(state, message=str(error) or type(error).__name__)
        files = trial.files(Path(name))
    return outcome._replace(epochs=trial.epochs, seconds=time.perf_counter() - began, files=files)


class _Trial:
    """A trial under way."""

    def __init__(
        self, job: TrialJob, tell: Callable[[TrialEpoch], None], stopped: Callable[[], bool]
    ) -> None:
        self._job = job
        self._tell = tell
        self._stopped = stopped
        self.epochs = 0
        self.telling = False
        """Whether somebody else's code runs, whose errors are not the trial's."""

    def run(self, train: Spikes, valid: Spikes, folder: Path) -> TrialOutcome:
        """Train all seeds; only whole trials come back from here, or diverged ones."""
        from snnbench.train import fit

        device = resolve_device(self._job.device)
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        accuracies, work = [], []
        for index, spec in enumerate(self._job.specs):
            result = fit(
                spec,
                train,
                valid,
                folder=_seed_folder(folder, index),
                device=device,
                on_epoch=self._listener(index),
            )
            if result.validation is None:
                return TrialOutcome("diverged", message=self._diverged(index, spec, result))
            accuracies.append(result.validation.accuracy)
            if self._job.measure:
                work.append(_work(result, valid, spec, device))
        spikes, operations = (fmean(w) for w in zip(*work, strict=True)) if work else (None, None)
        return TrialOutcome("complete", fmean(accuracies), spikes, operations)

    def _listener(self, index: int) -> Callable[[EpochReport], None]:
        use = SystemUse()

        def on_epoch(report: EpochReport) -> None:
            assert report.valid is not None  # a trial always has validation data
            self.epochs += 1
            metrics = {**epoch_metrics(report), **use.since()}
            accuracy = report.valid.accuracy
            self.telling = True
            self._tell(TrialEpoch(index, report.epoch, report.epochs, accuracy, metrics))
            stop = self._stopped()
            self.telling = False
            if stop:
                raise _Stopped

        return on_epoch

    def _diverged(self, index: int, spec: RunSpec, result: FitResult) -> str:
        which = f"seed {index + 1} of {len(self._job.specs)}: " * (len(self._job.specs) > 1)
        return f"{which}loss or gradient not finite in epoch {result.epochs_run + 1} of {spec.train.epochs}"

    def files(self, folder: Path) -> dict[str, bytes]:
        """Files of the first seed that MLflow shows."""
        if not self._job.show:
            return {}
        first = _seed_folder(folder, 0)
        return {name: (first / name).read_bytes() for name in shown_files(first)}


def _seed_folder(folder: Path, index: int) -> Path:
    return folder / f"seed-{index}"


def _work(
    result: FitResult, valid: Spikes, spec: RunSpec, device: torch.device
) -> tuple[float, float]:
    """Hidden spikes and effective accumulates of a validation sample, with the chosen epoch's weights."""
    from snnbench.evaluate import predict

    assert result.network is not None  # it has not diverged
    operations = predict(result.network, valid, spec, device).operations
    return sum(operations.spikes.values()), operations.effective_acs
