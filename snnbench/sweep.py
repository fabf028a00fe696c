"""Hyperparameter sweeps: trials scored on validation data, kept in an Optuna study.

    search space -> values of a trial -> run_trial on train and valid -> best validation accuracy

A sweep is given the training and the validation split and never the data file, so nothing in it can
rest on test data. A study is named after all that its trials share: a changed search space, objective,
setting or data file is another study, and the same sweep called again goes on with its own.

    snnbench.search_space     what is searched
    snnbench.sweep_samplers   who proposes values, who ends a trial early
    snnbench.trial            one trial, which knows of none of these
    snnbench.study_store      where trials are kept
    snnbench.sweep_tracking   trials in MLflow

The `Coordinator` here is what joins them. It alone writes to the store and to MLflow, and trials may run
wherever `run_trial` does: it hands out jobs, hears of epochs, and is told how each ended.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from snnbench.errors import SnnbenchError, UsageError
from snnbench.model_spec import ModelSpec
from snnbench.search_space import SearchSpace, Space
from snnbench.spec import RunSpec, make_run_spec
from snnbench.study_store import GRACE_S, HEARTBEAT_S, RunningStudy, Study, running_study
from snnbench.sweep_samplers import (
    PrunerName,
    SamplerName,
    check_sampler,
    pinned_pruner,
    pinned_sampler,
)
from snnbench.sweep_tracking import ShownTrials
from snnbench.trial import TrialEpoch, TrialJob, TrialOutcome, run_trial

if TYPE_CHECKING:
    import torch

    from snnbench.data_prep.spikes import Spikes

Objective = Literal["accuracy", "spikes", "operations"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

HOPELESS = 3
"""So many trials that fail with an error, before any other end, end the sweep: the rest would fail alike."""

_STUDIES = 2
"""Version of what a study holds; another one gives studies of other names."""


@dataclass(frozen=True)
class Sweep:
    """What all trials of a study share; `make_sweep` makes and validates one."""

    task: str
    model: str
    """A task and a model by name or file."""
    base: RunSpec
    """The run that the trials vary."""
    overrides: Mapping[str, Any]
    """What the user set, as dotted keys: the same in every trial."""
    search: SearchSpace
    where: str
    """The file and table that the search space is from."""
    objectives: tuple[Objective, ...] = ("accuracy",)
    seeds_per_trial: int = 1

    @property
    def name(self) -> str:
        """Name of the study: readable, and unique through a digest of all that makes a trial one of it."""
        parts = [_STUDIES, self.base.canonical_json(), self.search]
        text = json.dumps([*parts, self.objectives, self.seeds_per_trial], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.base.task.name}-{self.base.model.name}-{digest[:10]}"

    @cached_property
    def space(self) -> Space:
        """The search space, found right."""
        tree = self.base.model_dump(mode="json")

        def fixed(key: str) -> Any:
            node: Any = tree
            for part in key.split("."):
                if not isinstance(node, dict):
                    raise KeyError(key)
                node = node[part]
            return node

        return Space(self.where, self.search, fixed)

    def trial_spec(self, values: Mapping[str, Any], seed: int) -> RunSpec:
        """The run of a trial with these values of the searched keys."""
        return make_run_spec(
            self.task,
            self.model,
            seed=seed,
            data_fingerprint=self.base.data_fingerprint,
            overrides={**self.overrides, **values},
        )

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the searched keys from Optuna's parameters, which hold no lists."""
        return {key: self.space.value(key, param) for key, param in params.items()}


class Progress(NamedTuple):
    """How far a sweep is."""

    finished: int
    trials: int
    """Wanted in all."""
    epoch: int
    """Of the trial that told last, over all its seeds; 0 between trials."""
    epochs: int
    failed: int
    """Trials that diverged, ran out of memory or ended with an error."""
    best: float | None
    """Validation accuracy of the best complete trial."""


def make_sweep(
    task: str,
    model: str,
    search: SearchSpace,
    *,
    data_fingerprint: str,
    overrides: Mapping[str, Any] = {},
    where: str | None = None,
    objectives: Sequence[Objective] = ("accuracy",),
    seeds_per_trial: int = 1,
) -> Sweep:
    """A sweep of a model on a task; a key that `overrides` sets leaves the search space.

    Parameters
    ----------
    search : see `snnbench.search_space`.
    where : what errors name as the place of the search space; None: the model's file.
    objectives : accuracy alone, or with spikes or operations.
    seeds_per_trial : seeds that each trial is trained with; its figures are their means.

    Raises
    ------
    SnnbenchError
        There is nothing to search.
    UsageError
        Unknown task, model or key (with its path), a value that does not fit, or spikes as an objective
        of a model that has none.
    """
    file = model if model.endswith(".toml") else f"zoo/{model}.toml"
    if not search:
        raise SnnbenchError(
            f"{file}: has no [search] table, so there is nothing to sweep; name keys with --space"
        )
    base = make_run_spec(
        task, model, seed=0, data_fingerprint=data_fingerprint, overrides=overrides
    )
    if base.task.protocol != "A":
        raise UsageError(
            f"task.protocol = {base.task.protocol}: a sweep scores trials on validation data, which class A"
            " holds out; sweep in class A, and bench the best in another"
        )
    left = {key: table for key, table in search.items() if key not in overrides}
    if not left:
        raise UsageError(f"every key of the search space is set already: {', '.join(search)}")
    wanted = tuple(objectives)
    if wanted not in {("accuracy",), ("accuracy", "spikes"), ("accuracy", "operations")}:
        raise UsageError(
            f"--objective {','.join(wanted)}: take accuracy; accuracy,spikes; or accuracy,operations"
        )
    if "spikes" in wanted and not isinstance(base.model, ModelSpec):
        raise UsageError(
            f"--objective {','.join(wanted)}: a model of kind {base.model.kind} has no spikes; take"
            " accuracy,operations"
        )
    where = where or f"{file}: search"
    sweep = Sweep(task, model, base, dict(overrides), left, where, wanted, seeds_per_trial)
    for values in sweep.space.corners():
        try:
            sweep.trial_spec(values, seed=0)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return sweep


def run_sweep(
    sweep: Sweep,
    train: Spikes,
    valid: Spikes,
    *,
    folder: Path,
    trials: int,
    timeout_s: float | None = None,
    seed: int = 0,
    device: torch.device,
    sampler: SamplerName | None = None,
    pruner: PrunerName | None = None,
    storage: str | None = None,
    wait: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    track: bool = False,
    tracking_uri: str | None = None,
    heartbeat_s: int = HEARTBEAT_S,
    grace_s: int = GRACE_S,
    elsewhere: Callable[[Coordinator], None] | None = None,
) -> Study:
    """Run trials until the study has `trials` finished ones; those of earlier calls count.

    A trial that diverged, ran out of memory or failed is finished. One that is stopped by Ctrl-C or a kill
    is not: its state says so, and another takes its place; on a server, the same again.

    Parameters
    ----------
    sweep : what to search.
    train, valid : spikes to learn from, and to score and prune trials on.
    folder : where the study's file is or will be; trials themselves leave no files but what MLflow
        could not take.
    timeout_s : no trial begins later than this many seconds after the call.
    seed : a trial's values and its training seeds follow from this, its number and the trials before it, so
        that a sweep in two parts is the sweep in one. A study may hold trials of several seeds.
    device : where to compute.
    sampler, pruner : by name; None: the study's own, of a new one tpe and median, or no pruner where there
        are several objectives.
    storage : a PostgreSQL server as `snnbench.study_store.checked_storage` gives it, on which several
        processes may run the sweep; None: a file in the folder, in which one may.
    wait : whether to wait while another process runs the sweep in its file.
    on_progress : called before and after each trial, and after each epoch.
    track : show trials in MLflow. What it cannot take waits beside the study, see docs/tracking.md.
    tracking_uri : where MLflow keeps runs; None: its usual place.
    heartbeat_s, grace_s : see `snnbench.study_store`.
    elsewhere : runs what the coordinator hands out in other processes (`snnbench.sweep_cluster.run_trials`);
        None: trials run in this one, one after another.

    Raises
    ------
    SnnbenchError
        The store is damaged or cannot be reached; another process is running the sweep; the first trials
        all ended with an error.
    UsageError
        Another sampler or pruner than the study's.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with running_study(
        folder,
        sweep.name,
        storage,
        objectives=len(sweep.objectives),
        wait=wait,
        heartbeat_s=heartbeat_s,
        grace_s=grace_s,
    ) as study:
        _pin(study, sweep, sampler, pruner)
        shown = ShownTrials(sweep, folder / f"{sweep.name}-trials", track, tracking_uri)
        with shown:
            coordinator = Coordinator(
                sweep,
                study,
                shown,
                trials=trials,
                seed=seed,
                device=device.type,
                deadline=deadline,
                on_progress=on_progress,
            )
            run_all = elsewhere or partial(_run_here, train, valid)
            while True:
                run_all(coordinator)
                if coordinator.is_over:
                    return study.read()
                time.sleep(min(1.0, heartbeat_s))  # others run what is left, and may yet die of it


def _run_here(train: Spikes, valid: Spikes, coordinator: Coordinator) -> None:
    for job in coordinator.jobs():
        tell, stopped = partial(coordinator.heard, job), partial(coordinator.stopped, job)
        coordinator.done(job, run_trial(job, train, valid, tell, stopped))


def _pin(
    study: RunningStudy, sweep: Sweep, sampler: SamplerName | None, pruner: PrunerName | None
) -> None:
    """Settle what all trials of the study have in common."""
    several = len(sweep.objectives) > 1
    if several and pruner not in (None, "none"):
        raise UsageError(
            f"--pruner {pruner}: with several objectives nothing says which of two trials is ahead, so"
            " none is ended early; leave it out"
        )
    check_sampler(sampler or "tpe", sweep.space, len(sweep.objectives))
    default: PrunerName = "none" if several else "median"
    fresh_pruner = pinned_pruner(pruner or default, sweep.base.train.epochs)
    study.pin("sampler", sampler, pinned_sampler(sampler or "tpe"))
    study.pin("pruner", pruner, fresh_pruner)
    study.note("overrides", dict(sweep.overrides))
    study.note("objectives", list(sweep.objectives))
    study.note("seeds_per_trial", sweep.seeds_per_trial)


class Coordinator:
    """Hands out trials and is told what becomes of them; several may run at a time.

    Use it in one thread: `jobs()` gives a job whenever there is place for one, `heard` takes what a trial
    tells, `stopped` says whether it should end, `done` takes its outcome. While trials of other processes
    run, `jobs()` may end before the sweep does; `is_over` knows.
    """

    def __init__(
        self,
        sweep: Sweep,
        study: RunningStudy,
        shown: ShownTrials,
        *,
        trials: int,
        seed: int,
        device: str,
        deadline: float | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._sweep = sweep
        self._study = study
        self._shown = shown
        self._trials = trials
        self._seed = seed
        self._device = device
        self._deadline = deadline
        self._on_progress = on_progress
        self._now = study.read()
        self._stopped: set[int] = set()

    @property
    def is_over(self) -> bool:
        """Whether there will be no further job: enough trials, a grid that is done, or no time."""
        enough = self._study.read().finished >= self._trials
        return enough or self._late or not self._study.others_run()

    @property
    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def jobs(self) -> Iterator[TrialJob]:
        """Trials to run now, each begun in the study when it is taken."""
        self._progress(0)
        while not self._late:
            asked = self._study.ask(
                self._sweep.space, self._trials, self._seed, lambda n: trial_seed(self._seed, n)
            )
            if asked is None:
                return
            seeds = [
                trial_seed(self._seed, asked.seed_number, index)
                for index in range(self._sweep.seeds_per_trial)
            ]
            try:
                specs = tuple(self._sweep.trial_spec(asked.values, seed) for seed in seeds)
            except UsageError as error:  # values that each fit, and not together
                self._end(asked.number, TrialOutcome("error", message=str(error)))
                continue
            self._shown.begin(asked.number, specs[0])
            yield TrialJob(
                number=asked.number,
                specs=specs,
                device=self._device,
                measure=len(self._sweep.objectives) > 1,
                show=self._shown.wanted,
            )

    def heard(self, job: TrialJob, report: TrialEpoch) -> None:
        """Take an epoch of a trial: show it, and decide whether the trial goes on.

        Only the first seed decides: those after it would be compared with others' first ones.
        """
        step = report.seed * report.epochs + report.epoch
        self._shown.epoch(job.number, step, report.metrics)
        self._progress(step)
        if len(self._sweep.objectives) > 1 or report.seed > 0:
            return
        poor = self._study.report(job.number, report.epoch, report.accuracy)
        if poor and report.epoch < report.epochs:
            self._stopped.add(job.number)

    def stopped(self, job: TrialJob) -> bool:
        """Whether a trial should end now."""
        return job.number in self._stopped

    def done(self, job: TrialJob, outcome: TrialOutcome) -> None:
        """Take how a trial ended.

        Raises
        ------
        SnnbenchError
            The first trials of the study have all ended with an error.
        """
        self._shown.end(job.number, outcome)
        self._end(job.number, outcome)

    def _end(self, number: int, outcome: TrialOutcome) -> None:
        self._study.tell(number, outcome, self._sweep.objectives)
        self._stopped.discard(number)
        self._now = self._study.read()
        self._progress(0)
        errors = self._now.states.get("error", 0)
        if outcome.state == "error" and errors == self._now.finished >= HOPELESS:
            raise SnnbenchError(
                f"{self._now.place}: the first {errors} trials all ended with an error, so the sweep ends;"
                f" the last: {outcome.message}"
            )

    def _progress(self, step: int) -> None:
        now, states = self._now, self._now.states
        self._on_progress(
            Progress(
                now.finished,
                self._trials,
                step,
                self._sweep.base.train.epochs * self._sweep.seeds_per_trial,
                sum(states.get(state, 0) for state in ("diverged", "oom", "error")),
                now.best.accuracy if now.best else None,
            )
        )


def trial_seed(seed: int, number: int, index: int = 0) -> int:
    """32 bits for a seed of a trial: none of the small seeds that a benchmark uses later."""
    text = f"{seed}/trial/{number}" + (f"/{index}" if index else "")
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
