"""Spoken digits by speakers that were never heard: two spiking networks beside three that do not spike.

    counts-linear   how often each channel spiked, no time        not spiking
    ff-lif          128 feedforward LIF cells                      SNN
    rec-lif-128     the same cells, connected to each other        SNN
    lstm, cnn       what is common elsewhere, on binned spikes     not spiking

Every run is one of `snnbench bench`: the epoch is chosen on validation speakers, then the test split is
opened once. The intervals are over seeds, of one and the same split: they tell how far training varies, and
nothing of other speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from snnbench.plots import BLUE, INK, ORANGE, QUIET, titled_figure
from snnbench.studies import raster_plots
from snnbench.studies.runner import mean_and_interval
from snnbench.studies.study import Data, Job, Report, Study, Verdict

if TYPE_CHECKING:
    from snnbench.record import RunRecord
    from snnbench.spec import RunSpec

COUNTS, FEEDFORWARD, RECURRENT = "counts-linear", "ff-lif", "rec-lif-128"
ORDER = ((RECURRENT, FEEDFORWARD), (RECURRENT, COUNTS), (FEEDFORWARD, COUNTS))
"""Pairs of the criterion: the first is to beat the second."""
_SYNTHETIC = "digits-synthetic"
_SOURCES = {
    "hd": "Heidelberg Digits, unseen speakers",
    _SYNTHETIC: "generated: digits of synthetic voices (espeak-ng), unseen voices",
    "randman": "generated: random manifolds, small, no speech",
}
_COLOURS = {True: BLUE, False: ORANGE}
_CLASSES = {True: "SNN", False: "not spiking"}


@dataclass(frozen=True)
class Parameters:
    """What can be set."""

    models: tuple[str, ...] = (COUNTS, FEEDFORWARD, RECURRENT, "lstm", "cnn")
    """Names of the zoo, in the order of the chart."""
    epochs: int = 0
    """Of training; 0: as many as the zoo's model has for this task."""
    small: bool = False
    """Take four classes of random manifolds instead of digits: seconds of work, for a quick look."""


def jobs(p: Parameters, seeds: Sequence[int], data: Data) -> list[Job]:
    """One for each model and seed."""
    from snnbench.paths import dataset_path

    recorded = data.find("hd.h5")
    facts: dict[str, Any]
    if p.small:
        facts = {"task": "randman"}
    elif recorded:
        facts = {"task": "hd", "file": str(recorded), "fingerprint": _fingerprint(recorded)}
    else:
        facts = {"task": _SYNTHETIC, "file": str(dataset_path(_SYNTHETIC))}
    return [
        Job(
            f"{model}-seed{seed}",
            train,
            {"model": model, "seed": seed, "epochs": p.epochs, **facts},
        )
        for model in p.models
        for seed in seeds
    ]


def train(a: Mapping[str, Any], report: Report, scratch: Path) -> dict[str, Any]:
    """One seed of a model, trained and tested. Its run folder, with the record, stays beside `scratch`."""
    from snnbench.bench import check_data, finished_record, run_seed
    from snnbench.data_prep.locate import locate_data
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.seeding import resolve_device
    from snnbench.tracking import NullTracker
    from snnbench.train import BatchReport, engine_for

    path = Path(a["file"]) if "file" in a else scratch.with_name("randman.h5")
    if a["task"] == "hd":
        path = locate_data(path, a["fingerprint"])
    else:
        _generated(path, _small_manifolds if a["task"] == "randman" else _synthetic_digits)
    with SpikeDataset.open(path) as dataset:
        spec = run_spec(a, dataset.fingerprint)
        check_data(dataset, spec.task)
        folder, device = scratch.with_name(spec.run_id), resolve_device("cpu")

        def on_batch(b: BatchReport) -> None:
            report((b.epoch - 1 + b.samples_done / b.samples) / spec.train.epochs)

        record = finished_record(folder)
        if record is None:
            dataset.check()
            record = run_seed(
                spec,
                dataset,
                folder=folder,
                device=device,
                tracker=NullTracker(),
                on_batch=on_batch,
                resume=True,
                engine=engine_for(folder, "auto", device),
            )
    return _result(record)


def run_spec(a: Mapping[str, Any], fingerprint: str) -> RunSpec:
    """The run of a job; random manifolds are trained as the synthetic digits are."""
    from snnbench.spec import DataPins, make_run_spec

    epochs = {"train.epochs": a["epochs"]} if a["epochs"] else {}
    small = a["task"] == "randman"
    spec = make_run_spec(
        _SYNTHETIC if small else a["task"],
        a["model"],
        seed=a["seed"],
        data_fingerprint=fingerprint,
        overrides=epochs,
    )
    if not small:
        return spec
    recipe = _small_recipe()
    task = spec.task.model_copy(
        update={
            "name": recipe.name,
            "title": recipe.title,
            "dataset": recipe.name,
            "n_units": recipe.n_units,
            "n_classes": len(recipe.classes),
            "duration_s": recipe.duration_s,
            "pins": DataPins(),
        }
    )
    return spec.model_copy(update={"task": task})


def _result(record: RunRecord) -> dict[str, Any]:
    from snnbench.model_spec import ModelSpec

    test, valid, operations = record.test, record.validation, record.operations
    return {
        "spiking": isinstance(record.spec.model, ModelSpec),
        "classes": record.spec.task.n_classes,
        # a diverged run has tested nothing: it counts as without a correct answer
        "correct": test.correct if test else 0,
        "total": test.total if test else 0,
        "test": test.accuracy if test else 0.0,
        "validation": valid.accuracy if valid else 0.0,
        "by_speaker": {name: c.accuracy for name, c in record.test_by_group.items()},
        "epochs": record.epochs_run,
        "chosen_epoch": record.chosen_epoch,
        "parameters": record.n_parameters,
        "hidden_spikes": sum(operations.spikes.values()) if operations else 0.0,
        "run": record.run_id,
    }


def _fingerprint(path: Path) -> str:
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(path) as dataset:
        return dataset.fingerprint


def _generated(path: Path, make: Callable[[Path], None]) -> None:
    """See that the file is there; a job beside this one that needs it, too, waits."""
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f".{path.stem}.wanted.lock")):
        if not path.is_file():
            make(path)


def _synthetic_digits(path: Path) -> None:
    """Speak the digits and send them through the cochlea, as `snnbench data get` does."""
    import shutil

    from snnbench.data_prep.convert import convert
    from snnbench.data_prep.only_writer import only_writer
    from snnbench.data_prep.recipe import load_recipe
    from snnbench.data_prep.speech import synthesise

    recordings = path.parent / "sources" / _SYNTHETIC
    with only_writer(recordings):
        shutil.rmtree(recordings, ignore_errors=True)
        synthesise(recordings)
        convert(load_recipe(_SYNTHETIC), recordings, path, workers=1)


def _small_manifolds(path: Path) -> None:
    from snnbench.data_prep.convert import convert

    convert(_small_recipe(), None, path, workers=1)


def _small_recipe() -> Any:
    from snnbench.data_prep.recipe import PerClass, load_recipe

    recipe = load_recipe("randman")
    assert recipe.randman is not None
    manifolds = recipe.randman.model_copy(
        update={"alpha": 3.0, "per_class": PerClass(train=16, valid=8, test=8)}
    )
    return recipe.model_copy(
        update={
            "classes": recipe.classes[:4],
            "n_units": 100,
            "duration_s": 0.2,
            "randman": manifolds,
            "expected_samples": {},
        }
    )


def summarise(p: Parameters, results: Sequence[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Accuracies on test and validation by model, over seeds."""
    models: dict[str, Any] = {}
    for name in p.models:
        runs = [r for job, r in results if job.arguments["model"] == name]
        models[name] = {
            "class": _CLASSES[runs[0]["spiking"]],
            "test": mean_and_interval([r["test"] for r in runs]),
            "validation": mean_and_interval([r["validation"] for r in runs]),
            "test_by_seed": [r["test"] for r in runs],
            "correct_by_seed": [r["correct"] for r in runs],
            "by_speaker": {
                speaker: float(np.mean([r["by_speaker"].get(speaker, 0.0) for r in runs]))
                for speaker in sorted({s for r in runs for s in r["by_speaker"]})
            },
            "parameters": runs[0]["parameters"],
            "hidden_spikes": float(np.mean([r["hidden_spikes"] for r in runs])),
            "epochs": [r["epochs"] for r in runs],
            "runs": [r["run"] for r in runs],
        }
    first_job, first = results[0]
    return {
        "data": _SOURCES[first_job.arguments["task"]],
        "recordings_tested": max(r["total"] for _, r in results),
        "chance": 1 / first["classes"],
        "models": models,
    }


def judge(p: Parameters, numbers: dict[str, Any]) -> Verdict:
    """Whether each pair differs by more than both half-widths together."""
    models = numbers["models"]
    told = ", ".join(f"{name} {_percent(m['test'])}" for name, m in models.items())
    told = f"Test accuracy, {numbers['data']}: {told}."
    if missing := {name for pair in ORDER for name in pair} - set(models):
        return Verdict(None, f"{told} Without {', '.join(sorted(missing))} there is no order.")
    close = [pair for pair in ORDER if not _beats(*(models[name]["test"] for name in pair))]
    failed = "; ".join(f"{better} does not beat {worse} clearly" for better, worse in close)
    return Verdict(not close, f"{told} {failed[0].upper()}{failed[1:]}." if close else told)


def _percent(x: Mapping[str, float]) -> str:
    half = f" ± {100 * x['half_width_95']:.1f}" if x["n"] > 1 else ""  # one seed has no interval
    return f"{100 * x['mean']:.1f}{half} %"


def _beats(better: Mapping[str, float], worse: Mapping[str, float]) -> bool:
    margin = better["half_width_95"] + worse["half_width_95"]
    return better["mean"] - worse["mean"] > margin


def draw(p: Parameters, numbers: dict[str, Any]) -> dict[str, Figure]:
    """A bar for each model, its seeds as dots, validation as a mark, chance as a line."""
    models = numbers["models"]
    seeds = max(len(m["test_by_seed"]) for m in models.values())
    figure = titled_figure(
        max(5.6, 2.4 + 1.1 * len(models)),
        3.9,
        "Digits of speakers never heard" if not p.small else "A small task, for a quick look",
        f"Mean accuracy of {seeds} seed{'s' if seeds > 1 else ''}, on"
        f" {numbers['recordings_tested']:,} test recordings",
        numbers["data"],
    )
    axes = figure.subplots()
    for k, m in enumerate(models.values()):
        _bar(axes, k, m)
    chance = 100 * numbers["chance"]
    axes.axhline(chance, color=QUIET, lw=0.8, ls=(0, (4, 3)))
    axes.annotate(
        f"chance {chance:g} %",
        (1, chance),
        xycoords=("axes fraction", "data"),
        xytext=(2, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        color=QUIET,
        annotation_clip=False,
    )
    axes.set_xticks(range(len(models)), list(models))
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(models) - 0.4)
    axes.set_ylim(0, 100)
    axes.set_ylabel("Accuracy (%)")
    axes.grid(axis="y")
    _legend(figure, axes, [m["class"] for m in models.values()], intervals=seeds > 1)
    return {"": figure}


def _bar(axes: Any, k: int, m: Mapping[str, Any]) -> None:
    """One model at place k: bar, interval, seeds, validation, and the mean in words above."""
    colour = _COLOURS[m["class"] == _CLASSES[True]]
    mean, half = 100 * m["test"]["mean"], 100 * m["test"]["half_width_95"]
    values = 100 * np.array(m["test_by_seed"])
    validation = 100 * m["validation"]["mean"]
    axes.bar(k, mean, 0.62, color=colour, alpha=0.75)
    if len(values) > 1:
        axes.errorbar(k, mean, half, color=INK, lw=1.1, capsize=3, zorder=3)
    # beside the interval, which would hide them
    spread = raster_plots.spread(len(values), 0.06)
    axes.plot(k - 0.17 + spread, values, "o", ms=3.6, color="white", mec=INK, mew=0.8, zorder=4)
    axes.plot(k + 0.2, validation, "D", ms=4.2, color=INK, mec="white", mew=0.6, zorder=4)
    top = max(mean + half, values.max())
    axes.text(k, top + 1.5, f"{mean:.1f}", ha="center", va="bottom", fontsize=8.5)


def _legend(figure: Figure, axes: Any, classes: Sequence[str], *, intervals: bool) -> None:
    shown = [c for c in (True, False) if _CLASSES[c] in classes]
    entries: list[Any] = [Patch(color=_COLOURS[c], alpha=0.75, label=_CLASSES[c]) for c in shown]
    mark: dict[str, Any] = {"ls": "none", "color": INK}
    entries += axes.plot([], [], "o", ms=3.6, mfc="white", mew=0.8, label="a seed", **mark)
    if intervals:
        label = "95 % interval of the mean"
        entries.append(axes.errorbar([], [], [], color=INK, lw=1.1, capsize=3, label=label, ls=""))
    entries += axes.plot([], [], "D", ms=4.2, label="validation", **mark)
    figure.legend(
        handles=entries, loc="outside lower left", ncols=len(entries), fontsize=8, handlelength=1.2
    )


STUDY = Study(
    name="heidelberg-table",
    shows="spoken digits of unseen speakers: two spiking networks, counts, LSTM and CNN",
    source="Cramer, Stradmann, Schemmel & Zenke 2020, spoken digits; talk, chart of the Heidelberg digits",
    criterion="in the mean over seeds on unseen speakers the recurrent SNN beats the feedforward SNN, and"
    " both beat the linear readout of spike counts, each by more than the sum of the two half-widths of the"
    " 95 % intervals; LSTM and CNN are reported beside it",
    parameters=Parameters(),
    seeds=3,
    jobs=jobs,
    summarise=summarise,
    judge=judge,
    draw=draw,
    trial={"models": (COUNTS, FEEDFORWARD), "epochs": 1, "small": True},
)
