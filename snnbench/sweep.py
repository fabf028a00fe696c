"""Hyperparameter sweeps: trials scored on validation data, kept in an Optuna study on disk.

    [search] of a zoo entry -> values of a trial -> fit on train and valid -> best validation accuracy

A sweep is given the training and the validation split and never the data file, so nothing in it can
rest on test data. A study is one SQLite file, named after all that its trials share: a changed search
space, setting or data file is another study, and the same sweep called again goes on with its own.

Values come from Optuna's multivariate TPE (Bergstra et al. 2011, Algorithms for Hyper-Parameter
Optimization), the first ten at random. The median pruner ends a trial early: after an epoch, from a
quarter of all epochs on, when the trial's best validation accuracy so far is below the median of what
the completed trials, five at least, had after that epoch. This is the only module that imports optuna.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from snnbench.errors import SnnbenchError, UsageError, unknown_name
from snnbench.spec import RunSpec, make_run_spec

if TYPE_CHECKING:
    import torch

    from snnbench.data_prep.spikes import Spikes
    from snnbench.tracking import NullTracker
    from snnbench.train import EpochReport, FitResult

SearchSpace = Mapping[str, Mapping[str, Any]]
"""Dotted key to {low, high}, with log or step where wanted, or to {choices}."""

WARMUP = 0.25
"""Part of a trial's epochs before which it is never pruned."""

DIVERGED = "diverged"


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

    @property
    def name(self) -> str:
        """Name of the study: readable, and unique through a digest of base and search space."""
        text = self.base.canonical_json() + json.dumps(self.search, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.base.task.name}-{self.base.model.name}-{digest[:10]}"

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
        return {
            key: next(c for c in self.search[key]["choices"] if _label(c) == param)
            if "choices" in self.search[key]
            else param
            for key, param in params.items()
        }


class Trial(NamedTuple):
    """One trial of a study."""

    number: int
    """From 0."""
    state: str
    """complete, pruned, diverged, stopped (by Ctrl-C, an error or a kill) or running."""
    accuracy: float | None
    """Validation accuracy: of a complete trial the best, of a pruned one the last."""
    params: dict[str, Any]
    epochs: int
    seconds: float | None


class Study(NamedTuple):
    """A study as it is on disk."""

    name: str
    path: Path
    overrides: dict[str, Any]
    trials: list[Trial]
    """Best first, then the pruned, then those without an accuracy."""

    @property
    def states(self) -> dict[str, int]:
        """Number of trials in each state that occurs."""
        return dict(Counter(t.state for t in self.trials))

    @property
    def finished(self) -> int:
        """Trials that told something about their values: the tuning budget spent so far."""
        return sum(self.states.get(state, 0) for state in ("complete", "pruned", DIVERGED))

    @property
    def best(self) -> Trial | None:
        """The complete trial with the highest validation accuracy, the earliest at a tie."""
        return next((t for t in self.trials if t.state == "complete"), None)


class Progress(NamedTuple):
    """How far a sweep is."""

    finished: int
    trials: int
    """Wanted in all."""
    epoch: int
    """Of the running trial; 0 between trials."""
    epochs: int
    diverged: int
    best: float | None
    """Validation accuracy of the best complete trial."""


def make_sweep(
    task: str,
    model: str,
    search: SearchSpace,
    *,
    data_fingerprint: str,
    overrides: Mapping[str, Any] = {},
) -> Sweep:
    """A sweep of a model on a task; a key that `overrides` sets leaves the search space.

    Raises
    ------
    SnnbenchError
        There is nothing to search.
    UsageError
        Unknown task, model or key (with its path), or a value that does not fit.
    """
    file = model if model.endswith(".toml") else f"zoo/{model}.toml"
    if not search:
        raise SnnbenchError(f"{file}: has no [search] table, so there is nothing to sweep")
    base = make_run_spec(
        task, model, seed=0, data_fingerprint=data_fingerprint, overrides=overrides
    )
    left = {key: table for key, table in search.items() if key not in overrides}
    if not left:
        raise UsageError(f"every key of the search space is set already: {', '.join(search)}")
    sweep = Sweep(task, model, base, dict(overrides), left)
    where = f"{file}: search"
    for key, table in left.items():
        _distribution(f"{where}.{key}", table)
    options = {
        k: t["choices"] if "choices" in t else [t["low"], t["high"]] for k, t in left.items()
    }
    lowest = {key: values[0] for key, values in options.items()}
    highest = {key: values[-1] for key, values in options.items()}
    one_other = [{**lowest, key: value} for key, values in options.items() for value in values]
    for values in (lowest, highest, *one_other):
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
    on_progress: Callable[[Progress], None] = lambda progress: None,
    track: bool = False,
    tracking_uri: str | None = None,
) -> Study:
    """Run trials until the study has `trials` finished ones; those of earlier calls count.

    A diverged trial is finished. A trial that is stopped by Ctrl-C, an error or a kill is not: its
    state says so, and another takes its place.

    Parameters
    ----------
    sweep : what to search.
    train, valid : spikes to learn from, and to score and prune trials on.
    folder : where the study's file is or will be; trials themselves leave no files but what MLflow
        could not take.
    timeout_s : no trial begins later than this many seconds after the call.
    seed : a trial's values and its training seed follow from this and its number, so that a sweep in
        two parts is the sweep in one. A study may hold trials of several seeds.
    device : where to compute.
    on_progress : called before and after each trial, and after each epoch.
    track : show trials in MLflow. What it cannot take waits beside the study, see docs/tracking.md.
    tracking_uri : where MLflow keeps runs; None: its usual place.

    Raises
    ------
    SnnbenchError
        The study's file is damaged, or another process is running the sweep.
    """
    started = time.monotonic()
    path = study_path(folder, sweep.name)
    with _one_process(path), _opened(path, create=True) as study:
        study.set_user_attr("overrides", dict(sweep.overrides))
        _mark_killed(study)
        shown = _Shown(sweep, folder / f"{sweep.name}-trials", track, tracking_uri)
        shown.remove_killed()
        while True:
            now = _read(study, path)
            tell = partial(_tell, on_progress, now, trials, sweep.base.train.epochs)
            tell(0)
            timed_out = timeout_s is not None and time.monotonic() - started >= timeout_s
            if now.finished >= trials or timed_out:
                return now
            _run_trial(study, sweep, train, valid, seed, device, tell, shown)


def study_path(folder: Path, name: str) -> Path:
    """The file of the study called `name`."""
    return folder / f"{name}.db"


def study_names(folder: Path) -> list[str]:
    """Names of all studies in a folder."""
    return sorted(path.stem for path in folder.glob("*.db"))


def read_study(folder: Path, name: str) -> Study:
    """A study from its file; SnnbenchError where there is none, or it is damaged."""
    path = study_path(folder, name)
    with _opened(path, create=False) as study:
        return _read(study, path)


def _run_trial(
    study: Any,
    sweep: Sweep,
    train: Spikes,
    valid: Spikes,
    seed: int,
    device: torch.device,
    tell_epoch: Callable[[int], None],
    shown: _Shown,
) -> None:
    from optuna import TrialPruned
    from optuna.pruners import MedianPruner
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    from snnbench.bench import epoch_metrics
    from snnbench.train import fit

    number = len(study.get_trials(deepcopy=False))
    trial_seed = _trial_seed(seed, number)
    study.sampler = TPESampler(seed=trial_seed)
    study.pruner = MedianPruner(n_warmup_steps=round(WARMUP * sweep.base.train.epochs))
    trial = study.ask({key: _distribution(key, table) for key, table in sweep.search.items()})

    def on_epoch(report: EpochReport) -> None:
        assert report.valid is not None  # a sweep always holds speakers out
        trial.report(report.valid.accuracy, report.epoch)
        tell_epoch(report.epoch)
        if report.epoch < report.epochs and trial.should_prune():
            raise TrialPruned

    try:
        spec = sweep.trial_spec(sweep.values(trial.params), trial_seed)
        with shown.trial(number, spec) as (run, tracker):

            def tracked(report: EpochReport) -> None:
                tracker.epoch(report.epoch, epoch_metrics(report))
                on_epoch(report)

            try:
                result = fit(spec, train, valid, folder=run, device=device, on_epoch=tracked)
            except TrialPruned:
                shown.end(tracker, run, spec, "pruned")
                raise
            state = "complete" if result.validation else DIVERGED
            shown.end(tracker, run, spec, state, result)
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        if result.validation is None:
            trial.set_user_attr(DIVERGED, True)
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, result.validation.accuracy)


class _Shown:
    """Trials in MLflow, where it is asked for; each has a folder of its own as long as it is needed."""

    def __init__(self, sweep: Sweep, folder: Path, track: bool, tracking_uri: str | None) -> None:
        self._sweep = sweep
        self._folder = folder
        self._track = track
        self._uri = tracking_uri

    @contextmanager
    def trial(self, number: int, spec: RunSpec) -> Iterator[tuple[Path, NullTracker]]:
        """Folder and tracker of a trial, until it ends; a pruned one is an end like others."""
        from optuna import TrialPruned

        from snnbench.tracking import NullTracker, Parent, Tracker, flat_params

        if not self._track:
            with tempfile.TemporaryDirectory(prefix="snnbench-trial-") as name:
                yield Path(name), NullTracker()
            return
        folder = self._folder / f"trial-{number}"
        folder.mkdir(parents=True)
        params = {"overrides": json.dumps(dict(self._sweep.overrides))}
        params |= {f"search.{key}": json.dumps(table) for key, table in self._sweep.search.items()}
        name = self._sweep.name
        tracker = Tracker(
            experiment=spec.task.name,
            run_name=f"{name}-trial{number}",
            params=flat_params(spec),
            run_dir=folder,
            tags={"kind": "trial", "trial": str(number), "synthetic": str(spec.task.synthetic)},
            parent=Parent(kind="sweep", key=name, name=f"sweep {name}", params=params),
            tracking_uri=self._uri,
            temporary=True,
        )
        pruned: TrialPruned | None = None
        with tracker:
            try:
                yield folder, tracker
            except TrialPruned as end:
                pruned = end
        if pruned:
            raise pruned

    def end(
        self,
        tracker: NullTracker,
        folder: Path,
        spec: RunSpec,
        state: str,
        result: FitResult | None = None,
    ) -> None:
        """Draw how a trial went, and show how it ended."""
        from snnbench import plots
        from snnbench.bench import PICTURES, read_history, save_pictures
        from snnbench.train import HISTORY_FILE

        if not self._track:
            return
        history = read_history(folder / HISTORY_FILE) if (folder / HISTORY_FILE).is_file() else {}
        if history:
            note = "synthetic data" if spec.task.synthetic else ""
            title = f"{spec.model.name} on {spec.task.name}, {folder.name}"
            curves = plots.learning_curves(history, title=title, note=note)
            save_pictures(folder / PICTURES, {"learning-curves": curves})
        best = result.validation.accuracy if result and result.validation else None
        tracker.finish_trial(state, best, len(history.get("epoch", ())))

    def remove_killed(self) -> None:
        """Remove folders of trials that a kill left, and that have nothing to send."""
        from snnbench.tracking import remove_temporary
        from snnbench.tracking_spool import SPOOL_FILE

        for folder in self._folder.glob("trial-*"):
            if not (folder / SPOOL_FILE).exists():
                remove_temporary(folder)


def _tell(
    on_progress: Callable[[Progress], None], now: Study, trials: int, epochs: int, epoch: int
) -> None:
    best = now.best.accuracy if now.best else None
    on_progress(Progress(now.finished, trials, epoch, epochs, now.states.get(DIVERGED, 0), best))


def _trial_seed(seed: int, number: int) -> int:
    """32 bits for a trial: none of the small seeds that a benchmark uses later."""
    digest = hashlib.blake2b(f"{seed}/trial/{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def _distribution(where: str, table: Mapping[str, Any]) -> Any:
    """Optuna's distribution for a table of the search space; integers where all its numbers are."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    known = {"choices"} if "choices" in table else {"low", "high", "log", "step"}
    for key in table.keys() - known:
        raise unknown_name("key", f"{where}.{key}", [f"{where}.{k}" for k in known])
    choices = table.get("choices", ["none needed"])
    if not (isinstance(choices, list) and choices):
        raise UsageError(f"{where}.choices: needs a list of values, found {choices!r}")
    kinds = {type(value) for key, value in table.items() if key != "log"}
    numbers = {"low", "high"} <= table.keys() and kinds <= {int, float}
    if not (numbers or "choices" in table):
        raise UsageError(f"{where}: needs numbers low and high, or choices; found {dict(table)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a step that does not reach high is only warned about
            if not numbers:
                return CategoricalDistribution([_label(choice) for choice in choices])
            return (IntDistribution if kinds == {int} else FloatDistribution)(**table)
    except (TypeError, ValueError, UserWarning) as error:
        raise UsageError(f"{where}: {error}") from None


def _label(choice: Any) -> Any:
    return choice if isinstance(choice, str | int | float) else json.dumps(choice)


def _read(study: Any, path: Path) -> Study:
    trials = [_trial(trial) for trial in study.get_trials(deepcopy=False)]
    order = {"complete": 0, "pruned": 1}
    trials.sort(key=lambda t: (order.get(t.state, 2), -(t.accuracy or 0), t.number))
    return Study(study.study_name, path, study.user_attrs.get("overrides", {}), trials)


def _trial(trial: Any) -> Trial:
    failed = DIVERGED if DIVERGED in trial.user_attrs else "stopped"
    return Trial(
        number=trial.number,
        state={"FAIL": failed}.get(trial.state.name, trial.state.name.lower()),
        accuracy=trial.value,
        params=dict(trial.params),
        epochs=len(trial.intermediate_values),
        seconds=trial.duration.total_seconds() if trial.duration else None,
    )


def _mark_killed(study: Any) -> None:
    """Give trials a state that a killed process left running; this process is the only one."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


@contextmanager
def _opened(path: Path, *, create: bool) -> Iterator[Any]:
    """The Optuna study in a file; database errors within the block name the file."""
    if not create and not path.is_file():
        raise SnnbenchError(
            f"{path}: no such study yet; `snnbench sweep run` begins it,"
            " `snnbench sweep show` lists those there are"
        )
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        _check_file(path, path.stem if not create else None)
        storage = _storage(path)
        try:
            yield optuna.create_study(
                storage=storage, study_name=path.stem, direction="maximize", load_if_exists=True
            )
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except (sqlite3.Error, SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise SnnbenchError(
            f"{path}: cannot be used as a study: {getattr(cause, 'orig', cause)};"
            " a damaged file moved away, `snnbench sweep run` begins anew"
        ) from error


def _check_file(path: Path, study: str | None) -> None:
    """Raise sqlite3.Error unless the file is whole, and holds the study if one is named."""
    with closing(sqlite3.connect(path)) as database:
        [problem] = database.execute("PRAGMA quick_check(1)").fetchone()
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
        # asked here, because Optuna would put its tables into any database that has none
        query = "SELECT 1 FROM studies WHERE study_name = ?"
        if study is not None and not database.execute(query, [study]).fetchone():
            raise sqlite3.DatabaseError(f"holds no study {study}")


def _storage(path: Path) -> Any:
    from optuna.storages import RDBStorage

    # quoted, because SQLAlchemy and Optuna read %, ? and { in an address
    address = f"sqlite:///{quote(str(path.absolute()))}"
    try:
        return RDBStorage(address)
    except RuntimeError as error:  # written by an Optuna with other tables
        raise SnnbenchError(f"{path}: {error}") from None


@contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """Let one process at a time run a sweep; a lock ends with its process, however that ends."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SnnbenchError(f"{path}: another process is running this sweep") from None
        yield
