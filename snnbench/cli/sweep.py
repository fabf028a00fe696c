"""`snnbench sweep`: search hyperparameters on validation data, look at trials, take the best."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import (
    answer,
    json_option,
    note,
    progress_bar,
    set_option,
    table,
    tracking_uri_option,
)
from snnbench.cli.run import data_option, device_option, opened_data, track_option
from snnbench.errors import SnnbenchError, unknown_name

if TYPE_CHECKING:
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.sweep import Progress, Study, Sweep, Trial

studies_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of studies; default: SNNBENCH_HOME/sweeps.",
)


@click.group("sweep")
def sweep_command() -> None:
    """Search for hyperparameters on validation data; test data is never read.

    \b
    Example: snnbench sweep run hd rec-lif --data hd.h5 --trials 20
    """


@sweep_command.command("run")
@click.argument("task")
@click.argument("model")
@data_option
@click.option(
    "--trials", type=click.IntRange(1), required=True, help="Finished trials wanted in all."
)
@click.option(
    "--timeout", type=click.FloatRange(0), metavar="S", help="Begin no trial after S seconds."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@device_option
@set_option
@studies_option
@track_option
@tracking_uri_option
@json_option
def run(
    task: str,
    model: str,
    data: Path | None,
    trials: int,
    timeout: float | None,
    seed: int,
    device: str,
    assignments: tuple[str, ...],
    out: Path | None,
    track: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Try values from the model's search space, until so many trials are finished.

    The same command again goes on where it was. A key given with --set keeps its value in all trials;
    another --set or other data is another study.

    \b
    Example: snnbench sweep run hd rec-lif --data hd.h5 --trials 20 --set train.epochs=20
    """
    from snnbench.seeding import resolve_device
    from snnbench.sweep import run_sweep

    chosen_device = resolve_device(device)
    with opened_data(task, data, check_model=model) as dataset:
        sweep = sweep_for(task, model, dataset, assignments)
        splits = dataset.split("train"), dataset.split("valid")
        with progress_bar(f"{task} {model} sweep", "trial") as update:

            def on_progress(p: Progress) -> None:
                figures: dict[str, Any] = {"epoch": f"{p.epoch}/{p.epochs}"} if p.epoch else {}
                if p.best is not None:
                    figures["best"] = f"{p.best:.2%}"
                if p.diverged:
                    figures["diverged"] = p.diverged
                part = round(p.epoch / (p.epochs + 1), 2)  # so that time left is known early
                update(p.finished + part if part else p.finished, p.trials, **figures)

            study = run_sweep(
                sweep,
                *splits,
                folder=studies_folder(out),
                trials=trials,
                timeout_s=timeout,
                seed=seed,
                device=chosen_device,
                on_progress=on_progress,
                track=track,
                tracking_uri=tracking_uri,
            )
    if study.finished < trials:
        note(f"time is up after {study.finished} of {trials} trials; the same command goes on")
    answer(as_json, study_facts(study), summary_text(study))


@sweep_command.command("show")
@click.argument("task_or_study", required=False)
@click.argument("model", required=False)
@data_option
@set_option
@studies_option
@json_option
def show(
    task_or_study: str | None,
    model: str | None,
    data: Path | None,
    assignments: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Trials of a study, best first; all studies where none is named.

    A study is named as in `sweep run`, by TASK MODEL with the same --data and --set, or by the name
    that stands in the list.

    \b
    Example: snnbench sweep show hd rec-lif --data hd.h5
    """
    from snnbench.sweep import read_study, study_names

    folder = studies_folder(out)
    if task_or_study is None:
        studies = [read_study(folder, name) for name in study_names(folder)]
        facts = [{k: v for k, v in study_facts(s).items() if k != "trials"} for s in studies]
        answer(as_json, facts, list_text(studies, folder))
        return
    if model is None:
        study = named_study(folder, task_or_study)
    else:
        with opened_data(task_or_study, data, check_model=model, prove=False) as dataset:
            sweep = sweep_for(task_or_study, model, dataset, assignments)
        study = read_study(folder, sweep.name)
    answer(as_json, study_facts(study), study_text(study))


@sweep_command.command("best")
@click.argument("task")
@click.argument("model")
@data_option
@set_option
@studies_option
@json_option
def best(
    task: str,
    model: str,
    data: Path | None,
    assignments: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """The best trial's values as --set arguments, and the benchmark command with them.

    \b
    Example: snnbench sweep best hd rec-lif --data hd.h5
    """
    from snnbench.sweep import read_study

    with opened_data(task, data, check_model=model, prove=False) as dataset:
        sweep = sweep_for(task, model, dataset, assignments)
    study = read_study(studies_folder(out), sweep.name)
    trial = study.best
    if trial is None or trial.accuracy is None:
        raise SnnbenchError(f"{study.path}: no complete trial yet, only {states_text(study)}")
    values = sweep.values(trial.params)
    settings = [word for key, value in values.items() for word in ("--set", setting(key, value))]
    command = [
        *("snnbench", "bench", task, model),
        *(("--data", str(data)) if data else ()),
        *(word for text in assignments for word in ("--set", text)),
        *settings,
        *("--tuning-trials", str(study.finished)),
    ]
    facts = {
        "study": study.name,
        "trial": trial.number,
        "validation_accuracy": trial.accuracy,
        "values": values,
        "tuning_trials": study.finished,
        "settings": settings,
        "command": command,
    }
    text = "\n".join(
        [
            f"{study.name}: trial {trial.number} of {study.finished},"
            f" validation accuracy {trial.accuracy:.2%}",
            shlex.join(settings),
            shlex.join(command),
        ]
    )
    answer(as_json, facts, text)


def sweep_for(task: str, model: str, dataset: SpikeDataset, assignments: tuple[str, ...]) -> Sweep:
    """The sweep over the zoo's search space with `--set` applied."""
    from snnbench.spec import load_model, parse_overrides
    from snnbench.sweep import make_sweep

    return make_sweep(
        task,
        model,
        load_model(model).search,
        data_fingerprint=dataset.fingerprint,
        overrides=parse_overrides(assignments),
    )


def studies_folder(out: Path | None) -> Path:
    """Where studies are kept."""
    from snnbench.paths import home_dir

    return out or home_dir() / "sweeps"


def named_study(folder: Path, name: str) -> Study:
    """A study by its name; a wrong one is told with near ones."""
    from snnbench.sweep import read_study, study_names

    names = study_names(folder)
    if name not in names:
        raise unknown_name("study", name, names)
    return read_study(folder, name)


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
        "path": str(study.path),
        "overrides": study.overrides,
        "finished": study.finished,
        "states": study.states,
        "best": study.best._asdict() if study.best else None,
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
    return "\n".join([*lines, str(study.path)])


def study_text(study: Study) -> Any:
    """A study's trials in a table, the summary below."""
    from rich.console import Group

    keys = list(dict.fromkeys(key for trial in study.trials for key in trial.params))
    # without its first word a key is still plain and the table narrower
    names = [key.partition(".")[2] for key in keys]
    columns = ["trial", "state", "validation", "epochs", "seconds", *names]
    rows = [_row(trial, keys) for trial in study.trials]
    fixed = ", ".join(f"{key} = {value}" for key, value in study.overrides.items())
    head = [f"the same in all trials: {fixed}"] if fixed else []
    return Group(*head, table(None, columns, rows), summary_text(study))


def list_text(studies: list[Study], folder: Path) -> Any:
    """All studies in a table."""
    if not studies:
        return f"{folder}: no studies yet; `snnbench sweep run TASK MODEL --trials N` begins one"
    rows = [[s.name, f"{s.best.accuracy:.2%}" if s.best else None, states_text(s)] for s in studies]
    return table(None, ["study", "best validation", "trials"], rows)


def _row(trial: Trial, keys: list[str]) -> list[Any]:
    accuracy = None if trial.accuracy is None else f"{trial.accuracy:.2%}"
    seconds = None if trial.seconds is None else round(trial.seconds, 1)
    values = [_short(trial.params.get(key)) for key in keys]
    return [trial.number, trial.state, accuracy, trial.epochs, seconds, *values]


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value
