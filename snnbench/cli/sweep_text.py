"""Studies as `snnbench sweep` tells them: facts for `--json`, tables and lines for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from snnbench.cli.common import table

if TYPE_CHECKING:
    from snnbench.study_store import Study, Trial


def setting(key: str, value: Any) -> str:
    """A `--set` argument that is read back as exactly this value."""
    from snnbench.spec import parse_overrides

    plain = f"{key}={value}"
    return (
        plain
        if parse_overrides([plain]) == {key: value}
        else f"{key}={json.dumps(value, ensure_ascii=False)}"
    )


def study_facts(study: Study) -> dict[str, Any]:
    """A study for `--json`."""
    return {
        "study": study.name,
        "storage": study.place,
        "overrides": study.overrides,
        "objectives": list(study.objectives),
        "sampler": study.sampler,
        "pruner": study.pruner,
        "finished": study.finished,
        "states": study.states,
        "best": study.best._asdict() if study.best else None,
        "front": list(study.front) if len(study.objectives) > 1 else None,
        "trials": [trial._asdict() for trial in study.trials],
    }


def states_text(study: Study) -> str:
    """For example "18 complete, 2 pruned"."""
    return ", ".join(f"{n} {state}" for state, n in study.states.items()) or "no trials"


def summary_text(study: Study) -> str:
    """A study in a few lines."""
    lines = [f"{study.name}: {states_text(study)}"]
    if study.best and study.best.accuracy is not None:
        values = ", ".join(f"{key} = {_short(v)}" for key, v in study.best.params.items())
        lines.append(
            f"best validation accuracy {study.best.accuracy:.2%}, trial {study.best.number}: {values}"
        )
    if len(study.objectives) > 1 and study.front:
        lines.append(f"Pareto front: trials {', '.join(map(str, study.front))}")
    told = [t for t in study.trials if t.message]
    if told:
        last = max(told, key=lambda t: t.number)
        lines.append(f"trial {last.number}, {last.state}: {last.message}")
    return "\n".join([*lines, study.place])


def study_text(study: Study, importances: Mapping[str, float]) -> Any:
    """A study's trials in a table, what mattered and the summary below."""
    from rich.console import Group

    from snnbench.sweep_results import searched_keys

    keys = searched_keys(study)
    # without its first word a key is still plain and the table narrower
    names = [key.partition(".")[2] for key in keys]
    measured = [name for name in study.objectives if name != "accuracy"]
    front = ["front"] if measured else []
    columns = ["trial", "state", "validation", *measured, *front, "epochs", "seconds", *names]
    rows = [_row(trial, keys, measured, study.front) for trial in study.trials]
    fixed = ", ".join(f"{key} = {value}" for key, value in study.overrides.items())
    head = [f"the same in all trials: {fixed}"] if fixed else []
    if study.sampler:
        head.append(f"sampler {study.sampler['name']}, pruner {study.pruner['name']}")
    shares = ", ".join(f"{key} {share:.0%}" for key, share in importances.items())
    tail = [f"decides about accuracy (PED-ANOVA): {shares}"] if shares else []
    return Group(*head, table(None, columns, rows), *tail, summary_text(study))


def list_text(studies: list[Study], place: str) -> Any:
    """All studies in a table."""
    if not studies:
        return f"{place}: no studies yet; `snnbench sweep run TASK MODEL --trials N` begins one"
    rows = [[s.name, f"{s.best.accuracy:.2%}" if s.best else None, states_text(s)] for s in studies]
    return table(None, ["study", "best validation", "trials"], rows)


def _row(trial: Trial, keys: list[str], measured: list[str], front: tuple[int, ...]) -> list[Any]:
    accuracy = None if trial.accuracy is None else f"{trial.accuracy:.2%}"
    seconds = None if trial.seconds is None else round(trial.seconds, 1)
    work = [_short(getattr(trial, name)) for name in measured]
    mark = ["*" if trial.number in front else None] if measured else []
    values = [_short(trial.params.get(key)) for key in keys]
    return [trial.number, trial.state, accuracy, *work, *mark, trial.epochs, seconds, *values]


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value
