"""`snnbench eval RUN... --corrupt`: trained runs on changed test samples, told and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.cli.common import answer, note, progress_bar, table
from snnbench.errors import UsageError

if TYPE_CHECKING:
    from snnbench.models.engines import Engine
    from snnbench.record import RunRecord
    from snnbench.robustness import Robustness
    from snnbench.spec import TaskSpec

PICTURE = "robustness"


def corrupt_runs(
    runs: Sequence[Path],
    data: Path | None,
    device: str,
    engine: Engine | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Test every run that has not been, draw each and all of them together, and tell what came out."""
    from snnbench.bench import save_pictures
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.models.engines import require_engine
    from snnbench.paths import dataset_path
    from snnbench.record import read_record
    from snnbench.robustness import ROBUSTNESS_FILE
    from snnbench.robustness_plots import robustness_curves
    from snnbench.seeding import resolve_device
    from snnbench.stress import stress_run

    where = resolve_device(device)
    chosen = require_engine(engine, where) if engine else None
    if len(set(runs)) < len(runs):
        raise UsageError(f"{next(r for r in runs if runs.count(r) > 1)}: is named twice")
    records = {run: read_record(run / "record.json") for run in runs}
    models = by_model(records)
    task = records[runs[0]].spec.task
    results: dict[Path, Robustness] = {}
    pictures: list[Path] = []
    with SpikeDataset.open(data or dataset_path(task.dataset)) as dataset:
        for run, record in records.items():
            model, seed = record.spec.model.name, record.spec.seed
            with progress_bar(f"{task.name} {model} seed {seed}", "sample", scale=True) as update:
                results[run] = stress_run(
                    run, dataset, where, engine=chosen, on_progress=partial(_tell, update)
                )
            if n := results[run].different_predictions:
                note(f"{run.name}: {n} predictions on clean samples differ from the record's")
            one = {model: [results[run]]}
            caption = f"{model} on {task.name}, seed {seed}"
            figure = robustness_curves(one, task, title=caption, note=_small_print(task))
            pictures += save_pictures(
                out if out and len(runs) == 1 else run / "pictures", {PICTURE: figure}
            )
    audits = {name: [results[run] for run in of] for name, of in models.items()}
    if len(runs) > 1:
        figure = robustness_curves(
            audits, task, title=f"Robustness on {task.name}", note=_small_print(task)
        )
        folder = out or runs[0].resolve().parent / "pictures"
        pictures += save_pictures(folder, {"-".join([PICTURE, task.name, *models]): figure})
    facts: dict[str, Any] = {
        "task": task.name,
        "runs": [
            {"file": str(run / ROBUSTNESS_FILE), **r.model_dump(mode="json"), **numbers([r])}
            for run, r in results.items()
        ],
        "models": {name: {"seeds": len(of), **numbers(of)} for name, of in audits.items()},
        "pictures": [str(path) for path in pictures],
    }
    answer(as_json, facts, robustness_text(audits, task))
    note("\n".join(facts["pictures"][-2:]))


def by_model(records: Mapping[Path, RunRecord]) -> dict[str, list[Path]]:
    """Runs that differ in nothing but their seed, by the name of their model.

    Two models of one name and different settings get the digest of their first run behind it.

    Raises
    ------
    UsageError
        Runs of several tasks or data files, or twice the same seed of a model.
    """
    first, *others = records.items()
    for run, record in others:
        for what, one, other in (
            ("task", first[1].spec.task, record.spec.task),
            ("data", first[1].data.fingerprint, record.data.fingerprint),
        ):
            if one != other:
                raise UsageError(
                    f"{run}: has other {what} than {first[0]}; name runs of one task and one data file"
                )
    groups: dict[str, dict[int, Path]] = {}
    names: dict[str, str] = {}
    for run, record in records.items():
        settings = record.spec.model_copy(update={"seed": 0})
        seeds = groups.setdefault(settings.run_id, {})
        seed, name = record.spec.seed, record.spec.model.name
        if seed in seeds:
            raise UsageError(f"{run}: is seed {seed} of {name}, like {seeds[seed]}; name each once")
        seeds[seed] = run
        names[settings.run_id] = name
    shared = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {
        f"{names[key]}-{key.rpartition('-')[2]}" if names[key] in shared else names[key]: [
            seeds[seed] for seed in sorted(seeds)
        ]
        for key, seeds in groups.items()
    }


def numbers(results: Sequence[Robustness]) -> dict[str, Any]:
    """What a model's trainings come to: mean and standard deviation over seeds, None where there is none."""
    from snnbench.corruption_spec import CORRUPTIONS

    return {
        "clean_accuracy": _over_seeds([r.clean.accuracy for r in results]),
        "retained": {
            name: _over_seeds([r.retained(name) for r in results]) for name in CORRUPTIONS
        },
        "robustness": _over_seeds([r.robustness for r in results]),
    }


def robustness_text(audits: Mapping[str, Sequence[Robustness]], task: TaskSpec) -> Any:
    """A table for every model, a corruption a line."""
    from rich.console import Group

    from snnbench.corruption_spec import CORRUPTIONS, VERSION

    parts: list[Any] = []
    for model, results in audits.items():
        facts = numbers(results)
        rows = []
        for name, corruption in CORRUPTIONS.items():
            of_runs = [r.accuracies(name) for r in results]
            levels = " ".join(f"{corruption.in_terms(x, task):.3g}" for x in corruption.levels)
            accuracies = " ".join(
                f"{100 * sum(run[x] for run in of_runs) / len(of_runs):4.1f}"
                for x in corruption.levels
            )
            retained = _spread(facts["retained"][name])
            rows.append([corruption.title, corruption.axis, levels, accuracies, retained])
        columns = ["corruption", "level", "", "accuracy %", "retained"]
        seeds = f", {len(results)} seeds" if len(results) > 1 else ""
        clean = _spread(facts["clean_accuracy"], percent=True)
        parts += [
            f"{model} on {task.name}{seeds}, {VERSION}: clean {clean}",
            table(None, columns, rows),
            f"robustness {_spread(facts['robustness'])} (1: nothing is lost, 0: chance)",
            speakers_text(results),
            "",
        ]
    return Group(*parts[:-1])


def speakers_text(results: Sequence[Robustness]) -> str:
    """Accuracy by what the network knew of the speaker, mean over seeds."""
    kinds = results[0].speakers
    if not kinds:
        return "unseen speakers: the data set tells no speakers"
    told = {
        kind: f"{100 * sum(r.speakers[kind].accuracy for r in results) / len(results):.1f}%"
        f" ({kinds[kind].total} samples)"
        for kind in kinds
    }
    if len(told) == 1:
        [(kind, text)] = told.items()
        return f"speakers: all test speakers are {kind} ones, {text}"
    return "speakers: " + ", ".join(f"{kind} {text}" for kind, text in told.items())


def _tell(update: Callable[..., None], done: int, total: int, resumed: int, name: str) -> None:
    update(done, total, resumed=resumed, corruption=name)


def _over_seeds(values: Sequence[float | None]) -> dict[str, float | None]:
    from snnbench.robustness import over_seeds

    summary = over_seeds(values)
    if summary is None:
        return {"mean": None, "sd": None}
    return {"mean": summary.mean, "sd": summary.sd if len(values) > 1 else None}


def _spread(number: Mapping[str, float | None], *, percent: bool = False) -> str:
    if number["mean"] is None:
        return "not told, the clean accuracy is not above chance"
    values = [v for v in (number["mean"], number["sd"]) if v is not None]
    return " ± ".join(f"{v:.2%}" if percent else f"{v:.3f}" for v in values)


def _small_print(task: TaskSpec) -> str:
    return "synthetic data" if task.synthetic else ""
