"""Where a sweep's trials are kept: an Optuna study, in a SQLite file or on a PostgreSQL server.

A SQLite file is one study, and one process at a time runs it: a lock beside the file says so. On a server
several processes may run one study. They ask for values one after another, and each sends a heartbeat for
its trials: those of a process that has gone silent are failed by the others and done again, with the same
values and seeds.

What a study holds besides Optuna's own, as attributes. Of the study: `overrides`, `sampler`, `pruner` (name
and settings, pinned by the first call), `optuna` (versions that have run it), `objectives`,
`seeds_per_trial`. Of a trial: `outcome`, a table of its state (as in `snnbench.trial`), epochs, spikes,
operations and message.
"""

from __future__ import annotations

import hashlib
import logging
import random
import sqlite3
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote

from snnbench.errors import SnnbenchError, UsageError
from snnbench.search_space import Space, Values
from snnbench.sweep_samplers import make_pruner, make_sampler
from snnbench.trial import TrialOutcome

log = logging.getLogger(__name__)

T = TypeVar("T")

FINISHED = ("complete", "pruned", "diverged", "oom", "error")
"""States of trials that told something about their values: the tuning budget spent."""

HEARTBEAT_S, GRACE_S = 10, 120
"""How often a running trial on a server is told to be alive; after how long a silence it is given up."""

_RETRIES = 2
"""How often a trial whose process has died is done again: it may be what kills processes."""
_PATIENCE_S = 600.0
"""How long a server may be gone."""
_MESSAGE_LENGTH = 2000


class Trial(NamedTuple):
    """One trial of a study."""

    number: int
    """From 0."""
    state: str
    """One of `FINISHED`; stopped (by Ctrl-C, an error of the sweep or a kill); running; waiting."""
    accuracy: float | None
    """Validation accuracy: of a complete trial the best, of a pruned one the last."""
    params: dict[str, Any]
    epochs: int
    seconds: float | None
    spikes: float | None = None
    """Hidden spikes of a validation sample, where that is an objective."""
    operations: float | None = None
    """Effective accumulates of a validation sample, likewise."""
    message: str = ""
    """Why it diverged, ran out of memory or failed."""


class Study(NamedTuple):
    """A study as it is in its store."""

    name: str
    place: str
    """File, or address without user and password."""
    overrides: dict[str, Any]
    objectives: tuple[str, ...]
    sampler: dict[str, Any]
    """Name and settings; empty before the first trial."""
    pruner: dict[str, Any]
    trials: list[Trial]
    """Best first, then the pruned, then those without an accuracy."""
    front: tuple[int, ...]
    """Numbers of the complete trials that no other one beats in every objective."""

    @property
    def states(self) -> dict[str, int]:
        """Number of trials in each state that occurs."""
        return dict(Counter(t.state for t in self.trials))

    @property
    def finished(self) -> int:
        """Trials that told something about their values: the tuning budget spent so far."""
        return sum(self.states.get(state, 0) for state in FINISHED)

    @property
    def best(self) -> Trial | None:
        """The complete trial with the highest validation accuracy, the earliest at a tie."""
        return next((t for t in self.trials if t.state == "complete"), None)


class Asked(NamedTuple):
    """A trial that has begun."""

    number: int
    seed_number: int
    """The same, or that of the trial that it repeats: seeds follow from it."""
    values: Values


def study_path(folder: Path, name: str) -> Path:
    """The SQLite file of the study called `name`."""
    return folder / f"{name}.db"


def study_names(folder: Path, storage: str | None = None) -> list[str]:
    """Names of all studies in a folder, or on a server."""
    if storage is None:
        return sorted(path.stem for path in folder.glob("*.db"))
    import optuna

    with _connected(storage) as server:
        return sorted(optuna.get_all_study_names(server))


def read_study(folder: Path, name: str, storage: str | None = None) -> Study:
    """A study from its store; SnnbenchError where there is none, or it is damaged."""
    with loaded_study(folder, name, storage) as study:
        return _read(study, _shown_place(folder, name, storage))


@contextmanager
def loaded_study(folder: Path, name: str, storage: str | None = None) -> Iterator[Any]:
    """Optuna's own study, to look at."""
    import optuna

    path = study_path(folder, name)
    place = _shown_place(folder, name, storage)
    if storage is None and not path.is_file():
        raise _no_study(place)
    with _named_errors(place, storage), _storage(folder, name, storage, create=False) as store:
        try:
            study = optuna.load_study(storage=store, study_name=name)
        except KeyError:
            raise _no_study(place) from None
        yield study


@contextmanager
def running_study(
    folder: Path,
    name: str,
    storage: str | None = None,
    *,
    objectives: int,
    wait: bool = False,
    heartbeat_s: int = HEARTBEAT_S,
    grace_s: int = GRACE_S,
) -> Iterator[RunningStudy]:
    """A study to run trials in, made where there is none; its running trials end with the block.

    Parameters
    ----------
    folder, name, storage : the SQLite file `name`.db in the folder, or the study on a server.
    objectives : 1, to be as large as can be, or 2, the second as small.
    wait : whether to wait while another process runs it in its SQLite file.
    heartbeat_s, grace_s : see `HEARTBEAT_S`.

    Raises
    ------
    SnnbenchError
        Another process runs it in its SQLite file, and `wait` is false; the store cannot be used.
    """
    import optuna

    directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"]
    place = _shown_place(folder, name, storage)
    with (
        _one_process(study_path(folder, name), wait, needed=storage is None),
        _named_errors(place, storage),
        _storage(folder, name, storage, create=True, beats=(heartbeat_s, grace_s)) as store,
    ):
        study = optuna.create_study(
            storage=store, study_name=name, directions=directions[:objectives], load_if_exists=True
        )
        running = RunningStudy(study, store, place, heartbeat_s if storage else None)
        try:
            running.begin()
            yield running
        finally:
            running.end()


class RunningStudy:
    """A study that this process runs trials of; `running_study` opens one."""

    def __init__(self, study: Any, store: Any, place: str, heartbeat_s: int | None) -> None:
        self._study = study
        self._store = store
        self._place = place
        self._running: dict[int, Any] = {}
        """Optuna's trials by number."""
        self._lost: set[int] = set()
        self._heart = _Heart(store, heartbeat_s) if heartbeat_s else None

    def begin(self) -> None:
        """Give trials a state that a killed process left running in a file: this one is the only one."""
        import optuna
        from optuna.trial import TrialState

        if self._heart is None:
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._study.tell(trial.number, state=TrialState.FAIL)
        versions = self._study.user_attrs.get("optuna", [])
        if optuna.__version__ not in versions:
            if versions:
                log.warning(
                    "%s: begun with Optuna %s, goes on with %s: values of further trials may be others",
                    self._place,
                    versions[-1],
                    optuna.__version__,
                )
            self._study.set_user_attr("optuna", [*versions, optuna.__version__])

    def end(self) -> None:
        """Give up what still runs: Ctrl-C or an error has ended the sweep."""
        from optuna.trial import TrialState

        if self._heart is not None:
            self._heart.stop()
        for number in list(self._running):
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def pin(self, key: str, asked: str | None, fresh: Mapping[str, Any]) -> None:
        """Decide on the sampler or pruner for all calls: the first one's, `fresh`, unless the study has one.

        Raises
        ------
        UsageError
            Another one is asked for than that of the study.
        """
        pinned = self._study.user_attrs.get(key)
        if pinned is None:
            self._study.set_user_attr(key, dict(fresh))
        elif asked not in (None, pinned["name"]):
            raise UsageError(
                f"--{key} {asked}: {self._place} was begun with {pinned['name']}, and a study keeps its"
                f" {key}; go on without --{key}, or begin another study in another folder (--out)"
            )

    def note(self, key: str, value: Any) -> None:
        """Set an attribute of the study."""
        if self._study.user_attrs.get(key) != value:
            self._study.set_user_attr(key, value)

    def read(self) -> Study:
        """The study as it is now."""
        return self._patiently(lambda: _read(self._study, self._place))

    def others_run(self) -> bool:
        """Whether there are running trials of other processes, or some that wait to be done again."""
        states = self.read().states
        return states.get("running", 0) + states.get("waiting", 0) > len(self._running)

    def ask(
        self, space: Space, wanted: int, seed: int, trial_seed: Callable[[int], int]
    ) -> Asked | None:
        """Begin a trial, unless there are as many as wanted, finished and running, or a grid is done.

        Parameters
        ----------
        space : what to search.
        wanted : finished trials wanted in all.
        seed : of the order in which a grid is gone through.
        trial_seed : seed of the sampler for the trial of this number.
        """
        return self._patiently(lambda: self._ask(space, wanted, seed, trial_seed))

    def _ask(
        self, space: Space, wanted: int, seed: int, trial_seed: Callable[[int], int]
    ) -> Asked | None:
        with self._one_asks():
            if self._heart is not None:
                self._heart.fail_silent(self._study)
            trials = self._study.get_trials(deepcopy=False)
            live = [t for t in trials if _state(t) in (*FINISHED, "running")]
            if len(live) >= wanted:
                return None
            pinned, point = self._study.user_attrs["sampler"], None
            waiting = any(_state(t) == "waiting" for t in trials)
            if pinned["name"] == "grid" and not waiting:
                taken = [t.params for t in live]
                grid = [space.parameters(values) for values in space.grid()]
                random.Random(seed).shuffle(grid)
                point = next((p for p in grid if p not in taken), None)
                if point is None:
                    return None
            with warnings.catch_warnings():
                # new to Optuna: heartbeats, and these without its own loop, some samplers
                warnings.simplefilter("ignore")
                self._study.sampler = make_sampler(pinned, trial_seed(len(trials)), point)
                self._study.pruner = make_pruner(self._study.user_attrs["pruner"])
                trial = self._study.ask()
                if self._heart is not None:
                    self._heart.watch(self._study, trial.number)
                try:
                    values = space.ask(lambda key, distribution: _suggest(trial, key, distribution))
                except BaseException:
                    if self._heart is not None:
                        self._heart.forget(trial.number)  # it falls silent, and is done again
                    raise
            self._running[trial.number] = trial
        told = self._study.get_trials(deepcopy=False)[trial.number].system_attrs
        return Asked(trial.number, told.get("failed_trial", trial.number), values)

    def report(self, number: int, epoch: int, accuracy: float) -> bool:
        """Keep the accuracy after an epoch; returns whether the trial should be ended."""
        from optuna.exceptions import UpdateFinishedTrialError

        def report() -> bool:
            trial = self._running[number]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an epoch told again, of a trial that was moved
                trial.report(accuracy, epoch)
            return bool(trial.should_prune())

        try:
            return self._patiently(report)
        except UpdateFinishedTrialError:
            return True  # given up by others after a silence of ours: it is done again elsewhere

    def tell(self, number: int, outcome: TrialOutcome, objectives: Sequence[str]) -> None:
        """Keep how a trial ended."""
        self._patiently(lambda: self._tell(number, outcome, objectives))
        if self._heart is not None:
            self._heart.forget(number)
        del self._running[number]

    def _tell(self, number: int, outcome: TrialOutcome, objectives: Sequence[str]) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        trial = self._running[number]
        facts = {
            "state": outcome.state,
            "epochs": outcome.epochs,
            "spikes": outcome.spikes,
            "operations": outcome.operations,
            "message": outcome.message[:_MESSAGE_LENGTH],
        }
        try:
            # in one piece: each write waits for the disk
            trial.set_user_attr("outcome", {k: v for k, v in facts.items() if v not in (None, "")})
            if outcome.state == "complete":
                values = [getattr(outcome, name) for name in objectives]
                self._study.tell(number, values, skip_if_finished=True)
            else:
                state = TrialState.PRUNED if outcome.state == "pruned" else TrialState.FAIL
                self._study.tell(number, state=state, skip_if_finished=True)
        except UpdateFinishedTrialError:
            log.warning(
                "%s: trial %d was given up by another process after a silence, and is done again there",
                self._place,
                number,
            )

    @contextmanager
    def _one_asks(self) -> Iterator[None]:
        """Let one process at a time count trials and begin one."""
        if self._heart is None:  # it is the only one
            yield
            return
        from sqlalchemy import text

        digest = hashlib.blake2b(self._study.study_name.encode(), digest_size=8).digest()
        key = {"key": int.from_bytes(digest, "big", signed=True)}
        # the server frees it with the connection, however a process ends
        with self._store.engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)

    def _patiently(self, call: Callable[[], T]) -> T:
        """Wait while a server is gone."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import OperationalError

        gone_at: float | None = None
        while True:
            try:
                return call()
            except (OperationalError, StorageInternalError) as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                now = time.monotonic()
                gone_at = gone_at or now
                if (
                    self._heart is None
                    or not isinstance(cause, OperationalError)
                    or now - gone_at > _PATIENCE_S
                ):
                    raise
                if gone_at == now:
                    log.warning("%s: does not answer; waiting for it", self._place)
            time.sleep(1.0)


class _Heart:
    """Tells a server that trials are alive, in a thread of its own, and fails those that are not."""

    def __init__(self, store: Any, interval_s: int) -> None:
        self._store = store
        self._interval_s = interval_s
        self._alive: dict[int, int] = {}
        """Optuna's id of a trial by its number."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def watch(self, study: Any, number: int) -> None:
        """Begin with a trial."""
        study_id = self._store.get_study_id_from_name(study.study_name)
        trial_id = self._store.get_trial_id_from_study_id_trial_number(study_id, number)
        self._store.record_heartbeat(trial_id)
        self._alive[number] = trial_id

    def forget(self, number: int) -> None:
        """End with a trial."""
        self._alive.pop(number, None)

    def fail_silent(self, study: Any) -> None:
        """Fail trials whose process has gone silent, and let them be done again; only under the lock."""
        from optuna.storages import fail_stale_trials
        from sqlalchemy import text

        # a process that was killed between making a trial and its first heartbeat: from now on it counts
        query = text(
            "SELECT t.trial_id FROM trials t JOIN studies s ON s.study_id = t.study_id LEFT JOIN"
            " trial_heartbeats h ON h.trial_id = t.trial_id WHERE s.study_name = :name AND"
            " t.state = 'RUNNING' AND h.trial_id IS NULL"
        )
        with self._store.engine.connect() as connection:
            silent = connection.execute(query, {"name": study.study_name}).scalars().all()
        for trial_id in silent:
            self._store.record_heartbeat(trial_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are new to Optuna
            fail_stale_trials(study)

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._interval_s):
            for trial_id in list(self._alive.values()):
                try:
                    self._store.record_heartbeat(trial_id)
                except (
                    Exception
                ) as error:  # a server that is gone: the sweep's own thread tells of it
                    log.debug("no heartbeat: %s", error)


def _suggest(trial: Any, key: str, distribution: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    d = distribution
    if isinstance(d, CategoricalDistribution):
        return trial.suggest_categorical(key, d.choices)
    if isinstance(d, FloatDistribution):
        return trial.suggest_float(key, d.low, d.high, step=d.step, log=d.log)
    return trial.suggest_int(key, d.low, d.high, step=d.step, log=d.log)


def _read(study: Any, place: str) -> Study:
    from optuna.trial import TrialState

    trials = [_trial(trial) for trial in study.get_trials(deepcopy=False)]
    order = {"complete": 0, "pruned": 1}
    trials.sort(key=lambda t: (order.get(t.state, 2), -(t.accuracy or 0), t.number))
    attributes = study.user_attrs
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return Study(
        study.study_name,
        place,
        attributes.get("overrides", {}),
        tuple(attributes.get("objectives", ["accuracy"])),
        attributes.get("sampler", {}),
        attributes.get("pruner", {}),
        trials,
        tuple(sorted(t.number for t in study.best_trials)) if complete else (),
    )


def _state(trial: Any) -> str:
    """State of Optuna's trial in our words."""
    if trial.state.name == "FAIL":
        return str(trial.user_attrs.get("outcome", {}).get("state", "stopped"))
    return str(trial.state.name.lower())


def _trial(trial: Any) -> Trial:
    facts = trial.user_attrs.get("outcome", {})
    return Trial(
        number=trial.number,
        state=_state(trial),
        accuracy=trial.values[0] if trial.values else None,
        params=dict(trial.params),
        epochs=facts.get("epochs", len(trial.intermediate_values)),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        spikes=facts.get("spikes"),
        operations=facts.get("operations"),
        message=facts.get("message", ""),
    )


def checked_storage(url: str) -> str:
    """The address of a PostgreSQL server as a user gives it, as SQLAlchemy wants it.

    Raises
    ------
    UsageError
        It is another address; the text has no password in it.
    SnnbenchError
        The driver is not installed.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    example = "postgresql://USER@HOST:5432/DATABASE"
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(f"--storage: is not an address such as {example}") from None
    if address.get_backend_name() != "postgresql" or not address.database:
        raise UsageError(
            f"--storage {_shown_url(url)}: several processes can share a study on a PostgreSQL server only,"
            f" {example}; without --storage a study is a file in the folder --out"
        )
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise SnnbenchError(
            f"--storage {_shown_url(url)}: needs psycopg ({error}): pip install 'snnbench[postgres]'"
        ) from None
    return address.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _shown_url(url: str) -> str:
    """Scheme, host and database; no user, password or option."""
    from sqlalchemy.engine import make_url

    a = make_url(url)
    port = f":{a.port}" if a.port else ""
    return f"{a.get_backend_name()}://{a.host or ''}{port}/{a.database or ''}"


def _shown_place(folder: Path, name: str, storage: str | None) -> str:
    return f"{_shown_url(storage)}, study {name}" if storage else str(study_path(folder, name))


def _no_study(place: str) -> SnnbenchError:
    return SnnbenchError(
        f"{place}: no such study yet; `snnbench sweep run` begins it,"
        " `snnbench sweep show` lists those there are"
    )


@contextmanager
def _storage(
    folder: Path,
    name: str,
    storage: str | None,
    *,
    create: bool,
    beats: tuple[int, int] | None = None,
) -> Iterator[Any]:
    """Optuna's storage: the study's file, or the server."""
    if storage is not None:
        with _connected(storage, beats) as server:
            yield server
        return
    path = study_path(folder, name)
    _check_file(path, None if create else name)
    # quoted, because SQLAlchemy and Optuna read %, ? and { in an address
    with _opened(f"sqlite:///{quote(str(path.absolute()))}", str(path)) as store:
        yield store


@contextmanager
def _connected(storage: str, beats: tuple[int, int] | None = None) -> Iterator[Any]:
    """A PostgreSQL server; with `beats`, seconds between heartbeats and of the silence that ends a trial."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    # connections that a restarted server has closed are replaced
    options: dict[str, Any] = {"engine_kwargs": {"pool_pre_ping": True}}
    if beats is not None:
        options |= {"heartbeat_interval": beats[0], "grace_period": beats[1]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = RetryHeartbeatStaleTrialCallback(max_retry=_RETRIES)
        options["heartbeat_stale_trial_callback"] = again
    shown = _shown_url(storage)
    with _named_errors(shown, storage), _opened(storage, shown, **options) as server:
        yield server


@contextmanager
def _opened(url: str, place: str, **options: Any) -> Iterator[Any]:
    import optuna
    from optuna.storages import RDBStorage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are new to Optuna
            store = RDBStorage(url, **options)
    except RuntimeError as error:  # written by an Optuna with other tables
        raise SnnbenchError(f"{place}: {error}") from None
    try:
        yield store
    finally:
        store.remove_session()
        store.engine.dispose()


@contextmanager
def _named_errors(place: str, storage: str | None) -> Iterator[None]:
    """Database errors within the block name the file or server."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (sqlite3.Error, SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        found = getattr(cause, "orig", cause)
        advice = (
            "a damaged file moved away, `snnbench sweep run` begins anew"
            if storage is None
            else "is the server there, and the database, and may this user make tables in it?"
        )
        raise SnnbenchError(f"{place}: cannot be used as a study: {found}; {advice}") from error


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


@contextmanager
def _one_process(path: Path, wait: bool, *, needed: bool) -> Iterator[None]:
    """Let one process at a time run a study in a file; a lock ends with its process, however that ends."""
    import fcntl

    if not needed:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise SnnbenchError(
                    f"{path}: another process is running this sweep; --wait waits until it has ended, and"
                    " --storage lets several run it"
                ) from None
            log.warning("%s: another process is running this sweep; waiting for it", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
