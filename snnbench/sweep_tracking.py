"""Trials of a sweep in MLflow: a parent for the study, a child for each trial, several at a time.

Each trial has a folder beside the study as long as something of it waits to be sent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from snnbench.bench import PICTURES, read_history, save_pictures
from snnbench.paths import write_bytes
from snnbench.spec import RunSpec
from snnbench.tracking import (
    Tracker,
    default_uri,
    flat_params,
    in_a_line,
    remove_temporary,
    without_password,
)
from snnbench.tracking_spool import SPOOL_FILE, Parent
from snnbench.trial import TrialOutcome

log = logging.getLogger(__name__)


class Shown(Protocol):
    """What is shown of a sweep."""

    @property
    def name(self) -> str:
        """Of the study."""

    @property
    def overrides(self) -> Mapping[str, Any]:
        """What the user set."""

    @property
    def search(self) -> Mapping[str, Mapping[str, Any]]:
        """The search space."""


class _Child(NamedTuple):
    """A trial that runs."""

    tracker: Tracker
    folder: Path
    spec: RunSpec


class ShownTrials:
    """Trials in MLflow, where it is wanted; as a context manager it ends those that still run."""

    def __init__(self, sweep: Shown, folder: Path, wanted: bool, tracking_uri: str | None) -> None:
        self._sweep = sweep
        self._folder = folder
        self.wanted = wanted
        self._uri = tracking_uri
        self._children: dict[int, _Child] = {}

    def __enter__(self) -> Self:
        """Remove folders of trials that a kill left, and that have nothing to send."""
        for folder in self._folder.glob("trial-*"):
            if not (folder / SPOOL_FILE).exists():
                remove_temporary(folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with ExitStack() as ends:
            for child in self._children.values():
                ends.callback(child.tracker.__exit__, kind, error, traceback)

    def begin(self, number: int, spec: RunSpec) -> None:
        """A trial begins."""
        if not self.wanted:
            return
        folder = self._folder / f"trial-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        name = self._sweep.name
        params = {"overrides": json.dumps(dict(self._sweep.overrides))}
        params |= {f"search.{key}": json.dumps(table) for key, table in self._sweep.search.items()}
        tracker = Tracker(
            experiment=spec.task.name,
            run_name=f"{name}-trial{number}",
            params=flat_params(spec),
            run_dir=folder,
            tags={"kind": "trial", "trial": str(number), "synthetic": str(spec.task.synthetic)},
            parent=Parent(kind="sweep", key=name, name=f"sweep {name}", params=params),
            tracking_uri=self._uri,
            temporary=True,
            elsewhere=True,
        )
        self._children[number] = _Child(tracker.__enter__(), folder, spec)

    def epoch(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """A trial has done an epoch."""
        if self.wanted:
            self._children[number].tracker.epoch(step, metrics)

    def end(self, number: int, outcome: TrialOutcome) -> None:
        """A trial has ended: its files, and pictures of how it went."""
        if not self.wanted:
            return
        tracker, folder, spec = self._children.pop(number)
        for name, content in outcome.files.items():
            write_bytes(folder / name, content)
        _draw(folder, spec)
        figures = {
            "chosen_valid_accuracy": outcome.accuracy,
            "hidden_spikes_per_sample": outcome.spikes,
            "effective_acs_per_sample": outcome.operations,
        }
        told = {key: value for key, value in figures.items() if value is not None}
        tracker.finish_trial(outcome.state, told, outcome.epochs, outcome.message)
        tracker.__exit__(None, None, None)


def _draw(folder: Path, spec: RunSpec) -> None:
    from snnbench import plots
    from snnbench.train import HISTORY_FILE

    if not (folder / HISTORY_FILE).is_file():
        return
    note = "synthetic data" if spec.task.synthetic else ""
    title = f"{spec.model.name} on {spec.task.name}, {folder.name}"
    curves = plots.learning_curves(read_history(folder / HISTORY_FILE), title=title, note=note)
    save_pictures(folder / PICTURES, {"learning-curves": curves})


def show_pictures(study: str, paths: Sequence[Path], tracking_uri: str | None) -> bool:
    """Put pictures to the study's run in MLflow; returns whether it has one. A failure is told, no more."""
    from snnbench.tracking_store import Store, store_is_there

    uri = tracking_uri or default_uri()
    try:
        if not store_is_there(uri):
            return False
        return Store(uri).show_in_parent(study, paths, PICTURES)
    except (
        Exception
    ) as error:  # mlflow's own, sqlalchemy's, requests' and OSError: the pictures are there
        log.warning(
            "MLflow at %s: %s; the pictures are in files only",
            without_password(uri),
            in_a_line(error),
        )
        return False
