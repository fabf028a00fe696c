"""`snnbench reproduce`: published experiments, done again, with a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import (
    answer,
    is_local,
    json_option,
    note,
    progress_bar,
    scheduler_option,
    table,
)
from snnbench.errors import UsageError

if TYPE_CHECKING:
    from snnbench.studies.study import Data, Study


@click.group("reproduce")
def reproduce_command() -> None:
    """Published experiments, done again: numbers, a figure, and whether the finding was seen.

    \b
    Example: snnbench reproduce run superspike-single
    """


@reproduce_command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """All studies, and what came of those that were done here.

    \b
    Example: snnbench reproduce list
    """
    from snnbench.studies.study import MODULES, load_study

    rows = []
    for name in MODULES:
        study = load_study(name)
        rows.append(
            {"name": name, "shows": study.shows, "seeds": study.seeds, "here": _done_here(study)}
        )
    text = table(None, ["name", "what", "seeds", "here"], [list(r.values()) for r in rows])
    answer(as_json, rows, text)


@reproduce_command.command("show")
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the study; default as for run."
)
@json_option
def show(name: str, out: Path | None, as_json: bool) -> None:
    """A study: what it does, its criterion and parameters, and the verdict where it was done.

    \b
    Example: snnbench reproduce show superspike-xor
    """
    import dataclasses

    from snnbench.studies.runner import read_report
    from snnbench.studies.study import load_study

    study = load_study(name)
    path = _folder(study, out) / f"{study.name}.json"
    report = read_report(path) if path.is_file() else None
    facts: dict[str, Any] = {
        "name": study.name,
        "shows": study.shows,
        "source": study.source,
        "criterion": study.criterion,
        "seeds": study.seeds,
        "parameters": dataclasses.asdict(study.parameters),
        "report": report,
    }
    lines = [
        f"{study.name}: {study.shows}",
        f"source     {study.source}",
        f"criterion  {study.criterion}",
        f"seeds      {study.seeds}",
        *(f"  {key} = {_plain(value)}" for key, value in facts["parameters"].items()),
        f"done here  {path}: {report['verdict']['sentence']}" if report else "done here  no",
    ]
    answer(as_json, facts, "\n".join(lines))


@reproduce_command.command("run")
@click.argument("name")
@click.option("--seeds", type=click.IntRange(1), help="How many; default: the study's own.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for report and pictures; default: SNNBENCH_HOME/studies/NAME.",
)
@click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with published data, as ssbm/, fly/ or hd.h5; SNNBENCH_DATA is looked through too.",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A picture to learn (superspike-picture).",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a parameter of the study; `reproduce show NAME` lists them. May be repeated.",
)
@click.option("--trial", is_flag=True, help="A quick look: everything small, nothing judged.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: one per core.")
@scheduler_option
@json_option
def run(
    name: str,
    seeds: int | None,
    out: Path | None,
    folder: Path | None,
    image: Path | None,
    assignments: tuple[str, ...],
    trial: bool,
    workers: int | None,
    scheduler: str,
    as_json: bool,
) -> None:
    """Do a study: report (JSON), figure (PNG and SVG), and a sentence with the verdict.

    Published data are used where they are found; otherwise the study generates an equivalent from a
    seed, and says so. May be stopped and called again: finished jobs are kept.

    \b
    Example: snnbench reproduce run superspike-single --seeds 20
    """
    import os

    from snnbench.studies.runner import run_study
    from snnbench.studies.study import load_study, with_settings

    is_local(scheduler, workers)
    study = load_study(name)
    settings = dict(_assignment(text) for text in assignments)
    if image:
        settings["image"] = str(image.resolve())
    parameters = with_settings(study, settings, trial=trial)
    count = seeds or (1 if trial else study.seeds)
    with progress_bar(name, "job") as update:
        outcome = run_study(
            study,
            parameters,
            seeds=range(count),
            data=data_folders(folder),
            out=_folder(study, out),
            workers=workers or len(os.sched_getaffinity(0)),
            on_progress=lambda done, total: update(round(done, 2), total),
            trial=trial,
            scheduler=scheduler,
        )
    for path in outcome.files:
        note(str(path))
    facts = {
        "study": study.name,
        "seen": outcome.verdict.seen,
        "sentence": outcome.verdict.sentence,
        "numbers": outcome.numbers,
        "files": [str(p) for p in outcome.files],
    }
    answer(as_json, facts, f"{_word(outcome.verdict.seen)}: {outcome.verdict.sentence}")


def data_folders(folder: Path | None) -> Data:
    """Where published data are looked for: the named folder, then the one for all data."""
    from snnbench.paths import data_dir
    from snnbench.studies.study import Data

    return Data(tuple(p for p in (folder, data_dir()) if p is not None))


def _assignment(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise UsageError(f"--set {text}: write KEY=VALUE")
    return key, value


def _folder(study: Study, out: Path | None) -> Path:
    from snnbench.paths import home_dir

    return out or home_dir() / "studies" / study.name


def _done_here(study: Study) -> str:
    from snnbench.errors import SnnbenchError
    from snnbench.studies.runner import read_report

    path = _folder(study, None) / f"{study.name}.json"
    try:
        return _word(read_report(path)["verdict"]["seen"]) if path.is_file() else ""
    except SnnbenchError:
        return "unreadable"


def _word(seen: bool | None) -> str:
    return {True: "seen", False: "not seen", None: "not judged"}[seen]


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
