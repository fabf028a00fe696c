"""`snnbench data`: make, check, look at and export data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import answer, json_option, note, progress_bar, table
from snnbench.errors import SnnbenchError, UsageError, unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from snnbench.data_prep.convert import Progress, Summary
    from snnbench.data_prep.recipe import Recipe
    from snnbench.data_prep.store import SpikeDataset


@click.group("data")
def data_command() -> None:
    """Make, check, look at and export data sets.

    \b
    Example: snnbench data convert hd --source heidelberg-digits --out hd.h5
    """


@data_command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The data sets there are recipes for, and whether they are converted here.

    \b
    Example: snnbench data list
    """
    from snnbench.data_prep.recipe import load_recipe, recipe_names
    from snnbench.paths import dataset_path

    rows = []
    for name in recipe_names():
        recipe = load_recipe(name)
        path = dataset_path(name)
        rows.append(
            {
                "name": name,
                "title": recipe.title,
                "summary": recipe.summary,
                "synthetic": recipe.synthetic,
                "source": recipe.source.about,
                "licence": recipe.licence,
                "path": str(path) if path.is_file() else None,
            }
        )
    text = table(
        None,
        ["name", "what", "source", "converted"],
        [[r["name"], r["summary"], r["source"], r["path"] or "no"] for r in rows],
    )
    answer(as_json, rows, text)


@data_command.command("get")
@click.argument("name")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: one per core.")
@click.option("--force", is_flag=True, help="Make the data set again although it is there.")
@json_option
def get(name: str, workers: int | None, force: bool, as_json: bool) -> None:
    """Make the data set NAME in the data folder (SNNBENCH_DATA), if it is not there yet.

    \b
    Example: snnbench data get digits-synthetic
    """
    from snnbench.data_prep.recipe import load_recipe
    from snnbench.paths import dataset_path

    recipe = load_recipe(name)
    path = dataset_path(name)
    if recipe.source.kind != "espeak-digits":
        raise SnnbenchError(
            f"{name} is not made on this machine: get {recipe.source.about} from {recipe.source.url}"
            f" and run `snnbench data convert {name} --source FOLDER --out {name}.h5`"
        )
    if path.is_file() and not force:
        note(f"{path} is there already")
    else:
        make_synthetic(recipe, path, workers)
    _show(path, as_json)


@data_command.command("convert")
@click.argument("name")
@click.option("--source", type=click.Path(path_type=Path), help="Folder with the source files.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: data folder.")
@click.option("--workers", type=click.IntRange(1), help="Processes; default: one per core.")
@click.option("--test-groups", help="Speakers to hold out for test, for example 04,05.")
@click.option("--valid-groups", help="Speakers to hold out for validation, for example 08,09.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@json_option
def convert(
    name: str,
    source: Path | None,
    out: Path | None,
    workers: int | None,
    test_groups: str | None,
    valid_groups: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a folder of source files into one SpikeDataset file.

    May be stopped at any time; the same command again goes on where it was.

    \b
    Example: snnbench data convert hd --source heidelberg-digits --out hd.h5
    """
    from snnbench.data_prep.recipe import load_recipe
    from snnbench.paths import dataset_path

    recipe = load_recipe(name)
    out = out or dataset_path(name)
    if out.is_dir():
        raise UsageError(
            f"--out {out}: is a folder; name a file, for example {out / (name + '.h5')}"
        )
    if out.exists() and not force:
        raise SnnbenchError(f"{out}: exists already; --force replaces it")
    held_out = {"test_groups": _names(test_groups), "valid_groups": _names(valid_groups)}
    if source is None and recipe.source.kind == "espeak-digits":
        make_synthetic(recipe, out, workers, **held_out)
    elif source is None:
        raise UsageError(f"--source is missing: {recipe.source.about}")
    elif recipe.source.kind == "published-spikes":
        from snnbench.data_prep.published import import_published

        import_published(recipe, source, out, **held_out)
    else:
        convert_with_progress(recipe, source, out, workers, **held_out)
    _show(out, as_json)


@data_command.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Read all of FILE and prove that it is whole and that its splits are disjoint.

    \b
    Example: snnbench data check hd.h5
    """
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(file) as dataset:
        dataset.check()
        facts = describe(dataset)
    lines = [
        f"{file}: whole",
        f"fingerprint {facts['fingerprint']} recomputed and equal",
        "checksums of all arrays hold; times sorted; units, labels and groups in range",
        "no recording (name or content) is in two splits; no validation speaker is in training",
    ]
    answer(as_json, {"ok": True, **facts}, "\n".join(lines))


@data_command.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Counts, splits, speakers, and how FILE was made.

    \b
    Example: snnbench data show hd.h5
    """
    _show(file, as_json)


@data_command.command("plot")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--split", default="test", show_default=True, help="train, valid or test.")
@click.option(
    "--sample", type=click.IntRange(0), default=0, show_default=True, help="Which sample."
)
@click.option(
    "--source", type=click.Path(path_type=Path), help="Source folder, to draw the sound too."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".png, .svg or .pdf")
@json_option
def plot(
    file: Path, split: str, sample: int, source: Path | None, out: Path, as_json: bool
) -> None:
    """Draw the spikes of one sample, above them the sound if its folder is given.

    \b
    Example: snnbench data plot hd.h5 --sample 0 --out raster.png
    """
    from snnbench import plots
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(file) as dataset:
        if split not in dataset.splits:
            raise unknown_name("split", split, dataset.splits)
        if sample >= dataset.n_samples(split):
            raise UsageError(
                f"--sample {sample}: split {split} of {file} has {dataset.n_samples(split)} samples,"
                f" 0 to {dataset.n_samples(split) - 1}"
            )
        figure, facts = raster_of(dataset, split, sample, source)
    plots.save(figure, out)
    text = f"{out}: {facts['source_id']}, “{facts['label']}”, {facts['spikes']} spikes"
    answer(as_json, {"out": str(out), **facts}, text)


@data_command.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(["shd"]), default="shd", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@json_option
def export(file: Path, layout: str, out: Path, as_json: bool) -> None:
    """Write the published SHD layout, one file per split, for other toolkits.

    \b
    Example: snnbench data export hd.h5 --layout shd --out exported
    """
    from snnbench.data_prep.published import export_published
    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(file) as dataset:
        files = export_published(dataset, out)
    answer(as_json, {"files": [str(f) for f in files]}, "\n".join(str(f) for f in files))


def raster_of(
    dataset: SpikeDataset, split: str, index: int, source: Path | None
) -> tuple[Figure, dict[str, Any]]:
    """Picture of one sample's spikes, above them the sound if its folder is given, and its facts."""
    from snnbench import plots

    part, header = dataset.read(split, index, index + 1), dataset.header
    times, units = part.sample(0)
    label, speaker = header.classes[part.labels[0]], header.groups[part.groups[0]]
    sound, rate = find_sound(source, part.source_ids[0]) if source else (None, None)
    figure = plots.audio_raster(
        times,
        units,
        n_units=header.n_units,
        duration_s=max(float(times.max(initial=0.0)), 0.1),
        title=f"“{label}”, {'voice' if header.synthetic else 'speaker'} {speaker}",
        waveform=sound,
        sample_rate_hz=rate,
        note="synthetic speech" if header.synthetic else "",
    )
    return figure, {"source_id": part.source_ids[0], "label": label, "spikes": len(times)}


def make_synthetic(
    recipe: Recipe,
    out: Path,
    workers: int | None,
    *,
    test_groups: tuple[str, ...] = (),
    valid_groups: tuple[str, ...] = (),
) -> Summary:
    """Speak the synthetic digits and convert them."""
    import shutil

    from snnbench.data_prep.speech import synthesise
    from snnbench.paths import data_dir

    source = data_dir() / "sources" / recipe.name
    # seconds of work: rather spoken anew than trusted as an earlier attempt left it
    shutil.rmtree(source, ignore_errors=True)
    with progress_bar("speaking", "words") as update:
        synthesise(source, progress=update)
    return convert_with_progress(
        recipe, source, out, workers, test_groups=test_groups, valid_groups=valid_groups
    )


def convert_with_progress(
    recipe: Recipe,
    source: Path,
    out: Path,
    workers: int | None,
    *,
    test_groups: tuple[str, ...] = (),
    valid_groups: tuple[str, ...] = (),
) -> Summary:
    """Convert with a progress bar, and say what it cost."""
    import time

    from snnbench.data_prep import convert as conversion

    started = time.monotonic()
    with progress_bar("converting", "files") as update:

        def report(p: Progress) -> None:
            speed = p.audio_s / (time.monotonic() - started)
            update(p.done, p.total, audio_per_s=f"{speed:.1f}", spikes=p.spikes)

        summary = conversion.convert(
            recipe,
            source,
            out,
            workers=workers or conversion.default_workers(),
            test_groups=test_groups,
            valid_groups=valid_groups,
            progress=report,
        )
    note(
        f"{summary.samples} recordings, {summary.audio_s:.1f} s of sound:"
        f" {time.monotonic() - started:.1f} s,"
        f" {summary.cpu_s / summary.audio_s:.3f} CPU s per second of sound,"
        f" {summary.spikes / summary.samples:.0f} spikes per recording,"
        f" at most {summary.peak_worker_bytes / 2**20:.0f} MiB in a worker"
    )
    return summary


def describe(dataset: SpikeDataset) -> dict[str, Any]:
    """What `show` tells about a file."""
    header, identity = dataset.header, dataset.identity
    return {
        "file": str(dataset.path),
        "name": header.name,
        "title": header.title,
        "synthetic": header.synthetic,
        "n_units": header.n_units,
        "duration_s": header.duration_s,
        "classes": list(header.classes),
        "splits": {
            split: {
                "samples": dataset.n_samples(split),
                "spikes": dataset.n_spikes(split),
                "groups": dataset.group_names(split),
            }
            for split in dataset.splits
        },
        **{k: v for k, v in identity.model_dump().items() if k.endswith("sha256")},
        "fingerprint": identity.fingerprint,
        "recipe": json.loads(header.recipe),
        "licence": header.licence,
        "citation": header.citation,
        "made_by": header.made_by,
    }


def _show(path: Path, as_json: bool) -> None:
    from rich.console import Group

    from snnbench.data_prep.store import SpikeDataset

    with SpikeDataset.open(path) as dataset:
        facts = describe(dataset)
    rows = [
        [
            split,
            s["samples"],
            s["spikes"],
            round(s["spikes"] / max(1, s["samples"])),
            " ".join(s["groups"]),
        ]
        for split, s in facts["splits"].items()
    ]
    synthetic = "\nsynthetic speech, not recordings of people" if facts["synthetic"] else ""
    head = (
        f"{facts['title']} ({facts['name']}){synthetic}\n"
        f"{path}, {facts['n_units']} units, {len(facts['classes'])} classes, {facts['made_by']}\n"
    )
    hashes = "\n".join(
        f"{key.removesuffix('_sha256'):12}{facts[key]}"
        for key in (
            "fingerprint",
            "recipe_sha256",
            "source_sha256",
            "split_sha256",
            "labels_sha256",
        )
    )
    splits = table(None, ["split", "samples", "spikes", "per sample", "speakers"], rows)
    answer(as_json, facts, Group(head, splits, f"\n{hashes}\nlicence     {facts['licence']}"))


def find_sound(folder: Path, source_id: str) -> tuple[Any, int]:
    """Waveform and rate of a recording in a source folder."""
    from snnbench.data_prep.audio import load_audio

    for place in (folder / "audio", folder):
        for suffix in (".flac", ".wav"):
            if (path := place / (source_id + suffix)).is_file():
                return load_audio(path, sample_rate_hz=None)
    raise SnnbenchError(f"{folder}: no sound file for {source_id} in it")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()
