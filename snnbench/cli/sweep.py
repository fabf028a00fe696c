"""`snnbench sweep`: search hyperparameters on validation data, look at trials, take the best."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from snnbench.cli.common import (
    answer,
    is_local,
    json_option,
    note,
    progress_bar,
    scheduler_option,
    set_option,
    tracking_uri_option,
)
from snnbench.cli.run import (
    bench_text,
    data_option,
    device_option,
    opened_data,
    record_facts,
    run_seeds,
    runs_folder,
    summary_facts,
    track_option,
    workers_option,
)
from snnbench.cli.sweep_text import (
    list_text,
    setting,
    states_text,
    study_facts,
    study_text,
    summary_text,
)
from snnbench.errors import SnnbenchError, UsageError, unknown_name

if TYPE_CHECKING:
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.study_store import Study, Trial
    from snnbench.sweep import Progress, Sweep
    from snnbench.sweep_samplers import PrunerName, SamplerName

Command = TypeVar("Command", bound=Callable[..., Any])

# as in snnbench.sweep_samplers and snnbench.sweep, which are slow to import
SAMPLERS = click.Choice(["tpe", "random", "cmaes", "gp", "grid"])
PRUNERS = click.Choice(["median", "hyperband", "none"])
OBJECTIVES = click.Choice(["accuracy", "accuracy,spikes", "accuracy,operations"])

studies_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of studies; default: SNNBENCH_HOME/sweeps.",
)
# of commands that write something else to --out
studies_folder_option = click.option(
    "--studies",
    type=click.Path(path_type=Path),
    help="Folder of studies; default: SNNBENCH_HOME/sweeps.",
)


def storage_option(command: Command) -> Command:
    """Add `--storage`, passed on as SQLAlchemy wants it, None where it is not given."""

    def checked(context: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
        if url is None:
            return None
        from snnbench.study_store import checked_storage

        return checked_storage(url)

    return click.option(
        "--storage",
        metavar="URL",
        callback=checked,
        help="PostgreSQL server that keeps studies, postgresql://USER@HOST/DATABASE, so that several"
        " processes may run one; default: a file in the folder of studies.",
    )(command)


def search_options(command: Command) -> Command:
    """Add what, besides TASK, MODEL, --data and --set, makes a study another one."""
    for option in (
        click.option(
            "--seeds-per-trial",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Seeds that each trial is trained with; it counts as their mean.",
        ),
        click.option(
            "--objective",
            type=OBJECTIVES,
            default="accuracy",
            show_default=True,
            help="What to search for on validation data: accuracy, or its Pareto front with hidden spikes or"
            " operations per sample.",
        ),
        click.option(
            "--space",
            "spaces",
            multiple=True,
            metavar="KEY=LOW:HIGH[:log] | KEY=A,B,C",
            help="Search a key in this range or among these values, besides or instead of what the search"
            " space says. May be repeated.",
        ),
        click.option(
            "--search",
            type=click.Path(path_type=Path),
            metavar="FILE.toml",
            help="Take the search space from the table [search] of this file, not from the model's.",
        ),
    ):
        command = option(command)
    return command


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
@click.option(
    "--sampler", type=SAMPLERS, help="Who proposes values; default: the study's own, first tpe."
)
@click.option(
    "--pruner",
    type=PRUNERS,
    help="Who ends poor trials early; default: the study's own, first median, none for two objectives.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@search_options
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Trials at a time; default: one per core, or per GPU, where more of them share it.",
)
@scheduler_option
@device_option
@set_option
@studies_option
@storage_option
@click.option(
    "--wait", is_flag=True, help="Wait while another process runs this sweep in its file."
)
@track_option
@tracking_uri_option
@json_option
def run(
    task: str,
    model: str,
    data: Path | None,
    trials: int,
    timeout: float | None,
    sampler: SamplerName | None,
    pruner: PrunerName | None,
    seed: int,
    search: Path | None,
    spaces: tuple[str, ...],
    objective: str,
    seeds_per_trial: int,
    workers: int | None,
    scheduler: str,
    device: str,
    assignments: tuple[str, ...],
    out: Path | None,
    storage: str | None,
    wait: bool,
    track: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Try values from the model's search space, until so many trials are finished.

    The same command again goes on where it was. Trials run side by side, each in one thread; with
    --workers 1 a sweep comes out the same every time. A key given with --set keeps its value in all
    trials; another --set, --space, --objective or other data is another study.

    \b
    Example: snnbench sweep run hd rec-lif --data hd.h5 --trials 20 --space train.lr=1e-4:1e-2:log
    """
    import torch

    from snnbench.cluster import local_slots, open_cluster
    from snnbench.seeding import resolve_device
    from snnbench.sweep import run_sweep
    from snnbench.sweep_cluster import run_trials

    local = is_local(scheduler, workers)
    # a device elsewhere is no concern of this machine
    chosen_device = resolve_device(device) if local else torch.device(elsewhere_device(device))
    slots = min(workers or local_slots(device), trials) if local else None
    with ExitStack() as stack:
        dataset = stack.enter_context(opened_data(task, data, check_model=model))
        sweep = sweep_for(
            task, model, dataset, assignments, search, spaces, objective, seeds_per_trial
        )
        if len(sweep.objectives) > 1:
            note(
                f"objectives {objective}: no trial is ended early, since neither alone says which is ahead"
            )
        splits = dataset.split("train"), dataset.split("valid")
        elsewhere = None
        if slots != 1:
            cluster = stack.enter_context(open_cluster(scheduler, slots, device))
            elsewhere = partial(
                run_trials,
                cluster=cluster,
                data=dataset.path,
                fingerprint=dataset.fingerprint,
                prove=not local,
            )
        with progress_bar(f"{task} {model} sweep", "trial") as update:

            def on_progress(p: Progress) -> None:
                figures: dict[str, Any] = {"epoch": f"{p.epoch}/{p.epochs}"} if p.epoch else {}
                if p.best is not None:
                    figures["best"] = f"{p.best:.2%}"
                if p.failed:
                    figures["failed"] = p.failed
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
                sampler=sampler,
                pruner=pruner,
                storage=storage,
                wait=wait,
                on_progress=on_progress,
                track=track,
                tracking_uri=tracking_uri,
                elsewhere=elsewhere,
            )
    if track:
        _show_plots(study.name, studies_folder(out), storage, tracking_uri)
    if study.finished < trials:
        why = "time is up" if timeout is not None else "the grid is done"
        goes_on = "; the same command goes on" if timeout is not None else ""
        note(f"{why} after {study.finished} of {trials} trials{goes_on}")
    answer(as_json, study_facts(study), summary_text(study))


def _show_plots(study: str, folder: Path, storage: str | None, tracking_uri: str | None) -> None:
    """Put the plots of a study into MLflow, where it is shown."""
    import tempfile

    from snnbench.sweep_plots import save_study_figures, study_figures
    from snnbench.sweep_tracking import show_pictures

    figures = study_figures(folder, study, storage)
    with tempfile.TemporaryDirectory() as pictures:
        if figures:
            show_pictures(study, save_study_figures(figures, Path(pictures)), tracking_uri)


def elsewhere_device(device: str) -> str:
    """What `--device` means for other machines: auto is cpu there, since cuda asks for a resource."""
    return "cuda" if device == "cuda" else "cpu"


@sweep_command.command("show")
@click.argument("task_or_study", required=False)
@click.argument("model", required=False)
@data_option
@search_options
@set_option
@studies_option
@storage_option
@json_option
def show(
    task_or_study: str | None,
    model: str | None,
    data: Path | None,
    search: Path | None,
    spaces: tuple[str, ...],
    objective: str,
    seeds_per_trial: int,
    assignments: tuple[str, ...],
    out: Path | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Trials of a study, best first, and what decides about accuracy; all studies where none is named.

    A study is named as in `sweep run`, by TASK MODEL with the same --data, --set and search space, or by the
    name that stands in the list.

    \b
    Example: snnbench sweep show hd rec-lif --data hd.h5
    """
    from snnbench.study_store import read_study, study_names
    from snnbench.sweep_results import importances

    folder = studies_folder(out)
    if task_or_study is None:
        studies = [read_study(folder, name, storage) for name in study_names(folder, storage)]
        facts = [{k: v for k, v in study_facts(s).items() if k != "trials"} for s in studies]
        answer(as_json, facts, list_text(studies, str(folder)))
        return
    if model is None:
        study = named_study(folder, task_or_study, storage)
    else:
        with opened_data(task_or_study, data, check_model=model, prove=False) as dataset:
            sweep = sweep_for(
                task_or_study,
                model,
                dataset,
                assignments,
                search,
                spaces,
                objective,
                seeds_per_trial,
            )
        study = read_study(folder, sweep.name, storage)
    shares = importances(folder, study.name, storage)
    facts_and_shares = {**study_facts(study), "importances": shares}
    answer(as_json, facts_and_shares, study_text(study, shares))


@sweep_command.command("best")
@click.argument("task")
@click.argument("model")
@data_option
@search_options
@set_option
@studies_option
@storage_option
@click.option("--trial", type=click.IntRange(0), help="Take this trial, for example of the front.")
@click.option(
    "--train-final", is_flag=True, help="Train with these values and fresh seeds, as `bench` does."
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Seeds 0 to N-1 of --train-final.",
)
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    help="Folder for run folders of --train-final; default: SNNBENCH_HOME/runs.",
)
@workers_option
@device_option
@track_option
@tracking_uri_option
@json_option
def best(
    task: str,
    model: str,
    data: Path | None,
    search: Path | None,
    spaces: tuple[str, ...],
    objective: str,
    seeds_per_trial: int,
    assignments: tuple[str, ...],
    out: Path | None,
    storage: str | None,
    trial: int | None,
    train_final: bool,
    seeds: int,
    runs: Path | None,
    workers: int | None,
    device: str,
    track: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """The best trial's values as --set arguments, and the benchmark command with them.

    --train-final benches them at once: other seeds than the trials', the test split opened once for each, and
    a record that tells the number of trials.

    \b
    Example: snnbench sweep best hd rec-lif --data hd.h5 --train-final --seeds 10
    """
    from snnbench.bench import default_seeds
    from snnbench.study_store import read_study

    with opened_data(task, data, check_model=model, prove=train_final) as dataset:
        sweep = sweep_for(
            task, model, dataset, assignments, search, spaces, objective, seeds_per_trial
        )
        study = read_study(studies_folder(out), sweep.name, storage)
        chosen = chosen_trial(study, trial)
        values = sweep.values(chosen.params)
        facts = best_facts(study, chosen, values, task, model, data, assignments)
        if not train_final:
            answer(as_json, facts, best_text(study, facts))
            return
        note(best_text(study, facts).splitlines()[0])
        specs = [sweep.trial_spec(values, seed) for seed in default_seeds(seeds)]
        records = run_seeds(
            specs,
            dataset,
            out=runs,
            device=device,
            track=track,
            tracking_uri=tracking_uri,
            workers=workers,
            tuning_trials=study.finished,
        )
    folders = [runs_folder(runs) / spec.run_id for spec in specs]
    told = [record_facts(r, f) for r, f in zip(records, folders, strict=True)]
    final = {**facts, "runs": told, **summary_facts(records)}
    answer(as_json, final, bench_text(records, folders))


@sweep_command.command("export")
@click.argument("study")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The table, .csv or .parquet by its ending.",
)
@studies_folder_option
@storage_option
@json_option
def export(study: str, out: Path, studies: Path | None, storage: str | None, as_json: bool) -> None:
    """Write a study's trials as a table: a row a trial, a column a key.

    \b
    Example: snnbench sweep export hd-rec-lif-1a2b3c4d5e --out trials.parquet
    """
    from snnbench.sweep_results import write_table

    n = write_table(named_study(studies_folder(studies), study, storage), out)
    answer(as_json, {"file": str(out), "trials": n}, f"{out}: {n} trials")


@sweep_command.command("plot")
@click.argument("study")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the pictures."
)
@studies_folder_option
@storage_option
@track_option
@tracking_uri_option
@json_option
def plot(
    study: str,
    out: Path,
    studies: Path | None,
    storage: str | None,
    track: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Draw a study: history, importance, slice, parallel coordinates, Pareto front; SVG and PNG.

    Where MLflow shows the study, the pictures go there, too.

    \b
    Example: snnbench sweep plot hd-rec-lif-1a2b3c4d5e --out pictures
    """
    from snnbench.sweep_plots import save_study_figures, study_figures
    from snnbench.sweep_tracking import show_pictures

    found = named_study(studies_folder(studies), study, storage)
    figures = study_figures(studies_folder(studies), study, storage)
    if not figures:
        raise SnnbenchError(
            f"{found.place}: nothing to draw before there are two complete trials, only {states_text(found)}"
        )
    paths = save_study_figures(figures, out)
    if track:
        show_pictures(study, paths, tracking_uri)
    answer(as_json, [str(path) for path in paths], "\n".join(map(str, paths)))


def sweep_for(
    task: str,
    model: str,
    dataset: SpikeDataset,
    assignments: tuple[str, ...],
    search: Path | None = None,
    spaces: tuple[str, ...] = (),
    objective: str = "accuracy",
    seeds_per_trial: int = 1,
) -> Sweep:
    """The sweep over the zoo's search space, or a file's, with `--space` and `--set` applied."""
    from snnbench.search_space import parse_space, read_search_file
    from snnbench.spec import load_model, parse_overrides
    from snnbench.sweep import OBJECTIVES, make_sweep

    own = read_search_file(search) if search else load_model(model).search
    return make_sweep(
        task,
        model,
        {**own, **parse_space(spaces)},
        data_fingerprint=dataset.fingerprint,
        overrides=parse_overrides(assignments),
        where=f"{search}: search" if search else None,
        objectives=[name for name in OBJECTIVES if name in objective.split(",")],
        seeds_per_trial=seeds_per_trial,
    )


def studies_folder(out: Path | None) -> Path:
    """Where studies are kept."""
    from snnbench.paths import home_dir

    return out or home_dir() / "sweeps"


def named_study(folder: Path, name: str, storage: str | None = None) -> Study:
    """A study by its name; a wrong one is told with near ones."""
    from snnbench.study_store import read_study, study_names

    names = study_names(folder, storage)
    if name not in names:
        raise unknown_name("study", name, names)
    return read_study(folder, name, storage)


def chosen_trial(study: Study, number: int | None) -> Trial:
    """The best trial, or the complete one of this number."""
    complete = [trial for trial in study.trials if trial.state == "complete"]
    if not complete:
        raise SnnbenchError(f"{study.place}: no complete trial yet, only {states_text(study)}")
    if number is None:
        return complete[0]
    try:
        return next(trial for trial in complete if trial.number == number)
    except StopIteration:
        raise UsageError(
            f"--trial {number}: {study.place} has no complete trial of this number; `snnbench sweep show`"
            " lists them"
        ) from None


def best_facts(
    study: Study,
    trial: Trial,
    values: dict[str, Any],
    task: str,
    model: str,
    data: Path | None,
    assignments: tuple[str, ...],
) -> dict[str, Any]:
    """A trial's values for `--json`, and the command that benches them."""
    settings = [word for key, value in values.items() for word in ("--set", setting(key, value))]
    command = [
        *("snnbench", "bench", task, model),
        *(("--data", str(data)) if data else ()),
        *(word for text in assignments for word in ("--set", text)),
        *settings,
        *("--tuning-trials", str(study.finished)),
    ]
    return {
        "study": study.name,
        "trial": trial.number,
        "validation_accuracy": trial.accuracy,
        "values": values,
        "tuning_trials": study.finished,
        "settings": settings,
        "command": command,
    }


def best_text(study: Study, facts: dict[str, Any]) -> str:
    """The same in three lines: which trial, its settings, the command."""
    return "\n".join(
        [
            f"{study.name}: trial {facts['trial']} of {study.finished},"
            f" validation accuracy {facts['validation_accuracy']:.2%}",
            shlex.join(facts["settings"]),
            shlex.join(facts["command"]),
        ]
    )
