"""What a study is: pieces of work, what they add up to, a criterion fixed beforehand, and pictures.

A study is a value, the `STUDY` of its module. The runner (`snnbench.studies.runner`) does its jobs, side by
side and resumably, and hands their results to `summarise`, `judge` and `draw`, which compute nothing long.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Report = Callable[[float], None]
"""report(fraction): how much of a job is done, 0 to 1."""
Work = Callable[[Mapping[str, Any], Report, Path], dict[str, Any]]
"""work(arguments, report, scratch) -> a result that JSON can hold. A function of a module, so that another
process can run it. `scratch` is a file of the job's own for checkpoints, not there at first; it is removed
when the job is done."""


@dataclass(frozen=True)
class Job:
    """A piece of work that depends on nothing but its arguments."""

    key: str
    """Name within the study, for files and progress: letters, digits, dots and dashes."""
    work: Work
    arguments: Mapping[str, Any]
    """What JSON can hold; files by path."""

    def digest(self, version: int) -> str:
        """Changes with the arguments, so that a result is never taken for another's."""
        text = json.dumps([version, self.work.__qualname__, self.arguments], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Data:
    """Where studies look for published data; what is not there is generated."""

    folders: tuple[Path, ...]

    def find(self, *names: str) -> Path | None:
        """The first of these relative paths that is in any folder, or None."""
        for name in names:
            for folder in self.folders:
                if (folder / name).exists():
                    return (folder / name).resolve()
        return None


@dataclass(frozen=True)
class Verdict:
    """What came of it."""

    seen: bool | None
    """Whether the published finding was seen by the study's criterion; None where it was not judged."""
    sentence: str


@dataclass(frozen=True)
class Study:
    """One experiment; all functions are the module's own."""

    name: str
    shows: str
    """One line for the list."""
    source: str
    """Paper and figure, or page of the talk."""
    criterion: str
    """What has to come out for the finding to count as seen, fixed before the first run."""
    parameters: Any
    """A frozen dataclass of defaults; `--set KEY=VALUE` changes one."""
    seeds: int
    """How many, unless told otherwise."""
    jobs: Callable[[Any, Sequence[int], Data], list[Job]]
    """jobs(parameters, seeds, data)"""
    summarise: Callable[[Any, Sequence[tuple[Job, dict[str, Any]]]], dict[str, Any]]
    """summarise(parameters, [(job, result)]) -> the numbers of the report; what begins with _ is for the
    pictures only."""
    judge: Callable[[Any, dict[str, Any]], Verdict]
    """judge(parameters, numbers)"""
    draw: Callable[[Any, dict[str, Any]], dict[str, Figure]]
    """draw(parameters, numbers) -> figures by the end of their name; "" is the main one. Called within
    `matplotlib.rc_context(snnbench.plots.STYLE)`."""
    trial: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of a quick look, `--trial`: everything runs, nothing is judged."""
    films: Callable[[Any, dict[str, Any], Path], list[Path]] | None = None
    """films(parameters, numbers, folder) writes animations and returns their paths."""
    version: int = 1
    """Raised when the work changes, so that old results are not taken."""


def with_settings(study: Study, settings: Mapping[str, str], *, trial: bool) -> Any:
    """A study's parameters, changed.

    Raises
    ------
    UsageError
        A key that the study does not have, or a value that is none of its kind.
    """
    changes: dict[str, Any] = dict(study.trial) if trial else {}
    known = {
        f.name: getattr(study.parameters, f.name) for f in dataclasses.fields(study.parameters)
    }
    for key, text in settings.items():
        if key not in known:
            raise unknown_name(f"parameter of {study.name}", key, known)
        changes[key] = _parsed(key, text, known[key])
    return dataclasses.replace(study.parameters, **changes)


def _parsed(key: str, text: str, default: Any) -> Any:
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is tuple:
            of = type(default[0])
            return tuple(of(part) for part in text.split(",") if part)
        return kind(text)
    except (ValueError, KeyError):
        like = ",".join(map(str, default)) if kind is tuple else default
        raise UsageError(f"{key}: cannot read {text!r}; write it like {like!s}") from None


MODULES = {
    "superspike-rates": "superspike_rates",
    "superspike-single": "superspike_single",
    "superspike-hidden": "superspike_hidden",
    "superspike-xor": "superspike_xor",
    "superspike-pattern": "superspike_pattern",
    "superspike-heterosynaptic": "superspike_heterosynaptic",
    "superspike-picture": "superspike_picture",
    "four-factors": "four_factors",
    "feedback-alignment": "feedback_alignment",
    "true-gradient": "true_gradient",
    "surrogate-shape": "surrogate_shape",
    "surrogate-slope": "surrogate_slope",
    "sparse-mnist": "sparse_mnist",
    "credit-families": "credit_families",
    "heidelberg-table": "heidelberg_table",
}
"""Study to module of this package."""


def load_study(name: str) -> Study:
    """A study by name.

    Raises
    ------
    UsageError
        Unknown; near names are suggested.
    """
    import importlib

    if name not in MODULES:
        raise unknown_name("study", name, MODULES)
    study: Study = importlib.import_module(f"snnbench.studies.{MODULES[name]}").STUDY
    return study
