"""A sweep's trials in other processes: here or on a Dask cluster, while one coordinator asks and decides.

Only the coordinator writes to the store and to MLflow. A process is given a trial and where the data file
lies; it opens the file's training and validation split, once, and hands nothing else on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.cluster import Cluster, Failure, Wire
from snnbench.trial import TrialEpoch, TrialJob, TrialOutcome, run_trial

if TYPE_CHECKING:
    from snnbench.data_prep.spikes import Spikes
    from snnbench.sweep import Coordinator


@dataclass(frozen=True)
class RemoteTrial:
    """A trial in words that another process understands."""

    trial: TrialJob
    data: Path
    fingerprint: str
    prove: bool
    """Whether the process has to find the data file whole before it uses it."""


def run_trials(
    coordinator: Coordinator, cluster: Cluster[Any], data: Path, fingerprint: str, *, prove: bool
) -> None:
    """Run what the coordinator hands out, as many trials at a time as the cluster has slots.

    A trial whose process dies is tried again elsewhere; one that takes its process with it every time is
    recorded as an error, and the sweep goes on.

    Parameters
    ----------
    data, fingerprint : the data file here, and by what another machine finds its own.
    prove : for machines that are not this one, where the file has been found whole already.

    Raises
    ------
    SnnbenchError
        A process has no such data; see also `Coordinator.done`.
    """
    # absolute, because a process may have another working directory
    jobs = (RemoteTrial(trial, data.absolute(), fingerprint, prove) for trial in coordinator.jobs())

    def heard(job: RemoteTrial, report: TrialEpoch) -> bool:
        coordinator.heard(job.trial, report)
        return coordinator.stopped(job.trial)

    def done(job: RemoteTrial, outcome: Any) -> None:
        if isinstance(outcome, Failure):
            if outcome.kind == "error":  # of our own making: a trial's errors are outcomes
                raise outcome.as_error(outcome.message)
            outcome = TrialOutcome("error", message=f"{outcome.message} (out of memory?)")
        coordinator.done(job.trial, outcome)

    cluster.run(run_remote_trial, jobs, heard=heard, done=done)


def run_remote_trial(job: RemoteTrial, wire: Wire) -> TrialOutcome:
    """What another process does."""
    train, valid = _splits(job.data, job.fingerprint, job.prove)
    return run_trial(job.trial, train, valid, wire.tell, wire.stopped)


@lru_cache(maxsize=1)  # of a process that does nothing but trials, most of them on the same data
def _splits(data: Path, fingerprint: str, prove: bool) -> tuple[Spikes, Spikes]:
    from snnbench.data_prep.locate import locate_data
    from snnbench.data_prep.store import SpikeDataset

    dataset = SpikeDataset.open(locate_data(data, fingerprint))
    if prove:
        dataset.check()
    return dataset.split("train"), dataset.split("valid")
